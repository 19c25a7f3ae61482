"""`mafa_blip2_llm`, stage 2 of BLIP-2: any tower and any Q-Former before a frozen language model of transformers.

Stage-1 checkpoints (mafa_blip2's and LAVIS') and stage-2 checkpoints load by `model.pretrained`, key by key
(models/pretrained.py); the language model comes from its own file, and no checkpoint holds it. Tested in
tests/models/test_any_llm.py and test_blip2_llm.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from lavis.common.registry import registry
from lavis.models.blip2_models.blip2 import Blip2Base, disabled_train
from torch import Tensor, nn

from lavis_mafa.common.config_file import plain_config
from lavis_mafa.common.files import CONFIGS
from lavis_mafa.models.blip2.language_model import PRECISIONS, load_language_model, precision_name
from lavis_mafa.models.blip2.parts import QFORMER_KEYS, QformerParts, queries_alone, stage_2_part
from lavis_mafa.models.pretrained import CHECKPOINT_KEYS, load_from_config

TOWER = {"drop_path_rate": 0.0, "use_grad_checkpoint": False, "vit_precision": "fp16"}  # LAVIS' defaults
LANGUAGE_MODEL_KEYS = (*CHECKPOINT_KEYS, *QFORMER_KEYS, "llm_precision", "prompt")
OWN = ("vocab", "bert", "qformer", "vit_weights", "llm_precision", "freeze_vit", "max_txt_len", "prompt")


@registry.register_model("mafa_blip2_llm")
class MafaBlip2LLM(QformerParts, Blip2Base):
    """Stage 2 with any decoder or encoder-decoder of transformers, by `llm_model` (BLIP-2, arXiv 2301.12597, 3.2)."""

    PRETRAINED_MODEL_CONFIG_DICT = {"small": str(CONFIGS / "models" / "mafa_blip2_llm_small.yaml")}
    config_keys: tuple[str, ...] = (*LANGUAGE_MODEL_KEYS, "llm_model")
    llm, projection, tokenizer_name, half = "llm_model", "llm_proj", "llm_tokenizer", torch.bfloat16
    llm_changes: Mapping[str, Any] = {}  # to the config of the language model

    def __init__(
        self,
        *,
        llm: str,
        vit_model: str = "eva_clip_g",
        img_size: int = 224,
        num_query_token: int = 32,
        prompt: str = "",
        max_txt_len: int = 32,
        vocab: str = "bert-base-uncased",
        bert: str = "bert-base-uncased",
        qformer: Mapping[str, Any] | None = None,
        vit_weights: str | None = None,
        freeze_vit: bool = True,
        llm_precision: str | None = None,
        **tower: Any,
    ) -> None:
        super().__init__()
        self._vocab, self._bert, self._qformer, self._vit_weights = vocab, bert, qformer, vit_weights
        self.prompt, self.max_txt_len = prompt, max_txt_len
        self.tokenizer = self.init_tokenizer()  # stage 1's; a checkpoint names its vocabulary
        tower = TOWER | tower
        self.visual_encoder, self.ln_vision = self.init_vision_encoder(
            vit_model, img_size, tower["drop_path_rate"], tower["use_grad_checkpoint"], tower["vit_precision"]
        )
        if freeze_vit:
            self.visual_encoder.requires_grad_(False).eval()
            self.visual_encoder.train = disabled_train
        self.Qformer, self.query_tokens = self.init_Qformer(num_query_token, self.visual_encoder.num_features)
        queries_alone(self.Qformer)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        dtype = PRECISIONS[precision_name(llm_precision, self.half, device)]
        model, tokenizer = load_language_model(llm, self.llm, dtype, self.llm_changes)
        setattr(self, self.llm, model)
        setattr(self, self.tokenizer_name, tokenizer)
        width = model.get_input_embeddings().embedding_dim
        setattr(self, self.projection, nn.Linear(self.Qformer.config.hidden_size, width))
        self.set_part_files(vit_model)
        self.part_files[self.llm] = llm
        self.parts_of_own_files = (f"{self.llm}.",)

    @property
    def language_model(self) -> Any:
        return getattr(self, self.llm)

    @property
    def llm_words(self) -> Any:
        """The tokenizer of the language model."""
        return getattr(self, self.tokenizer_name)

    @property
    def is_encoder_decoder(self) -> bool:
        return bool(self.language_model.config.is_encoder_decoder)

    @property
    def end(self) -> str:
        """What a decoder learns to write behind a text."""
        return str(self.llm_words.eos_token)

    @property
    def stop(self) -> dict[str, int]:
        """The token that ends an answer, where it is not the language model's own."""
        return {}

    def maybe_autocast(self, dtype: Any = None) -> Any:
        """LAVIS' autocast, in the language model's precision."""
        own = next(self.language_model.parameters()).dtype
        return torch.autocast(self.device.type, own, enabled=own != torch.float32)

    # ---- what is read

    def queries(self, samples: Mapping[str, Any]) -> Tensor:
        """What the Q-Former saw, as the language model reads it (B, Q, D)."""
        with self.maybe_autocast():
            seen_BLV = self.ln_vision(self.vision_tokens(samples).float())
        query_BQH = self.query_tokens.expand(len(seen_BLV), -1, -1)
        states_BQH = self.Qformer.bert(
            query_embeds=query_BQH, encoder_hidden_states=seen_BLV.float(), return_dict=True
        ).last_hidden_state
        return getattr(self, self.projection)(states_BQH)

    def _tokens(self, texts: list[str], side: str, longest: int | None = None) -> Any:
        """Ids and mask (B, T), padded on one side."""
        self.llm_words.padding_side = side
        limits = {} if longest is None else {"truncation": True, "max_length": longest}
        return self.llm_words(texts, return_tensors="pt", padding="longest", **limits).to(self.device)

    def _behind(self, queries_BQD: Tensor | None, tokens: Any) -> tuple[Tensor, Tensor]:
        """Embeddings (B, Q + T, D) of the queries and then the tokens, and their mask (B, Q + T)."""
        words_BTD = self.language_model.get_input_embeddings()(tokens.input_ids.long())
        mask_BT = tokens.attention_mask.long()
        if queries_BQD is None:
            return words_BTD, mask_BT
        seen = mask_BT.new_ones(queries_BQD.shape[:2])
        return torch.cat([queries_BQD.to(words_BTD.dtype), words_BTD], 1), torch.cat([seen, mask_BT], 1)

    # ---- training

    def forward(self, samples: Mapping[str, Any]) -> dict[str, Tensor]:
        """The loss of samples["text_input"] (B,) after the image; an encoder-decoder takes `text_output`, else cuts."""
        loss = self._loss_of_answers if self.is_encoder_decoder else self._loss_of_texts
        return {"loss": loss(self.queries(samples), samples)}

    def _loss_of_texts(self, queries_BQD: Tensor, samples: Mapping[str, Any]) -> Tensor:
        tokens = self._tokens([text + self.end for text in samples["text_input"]], "right", self.max_txt_len)
        embeds, mask = self._behind(queries_BQD, tokens)
        target_BT = _targets(tokens)
        if self.prompt:
            target_BT[:, : len(self.llm_words(self.prompt).input_ids)] = -100
        unseen = target_BT.new_full(queries_BQD.shape[:2], -100)
        with self.maybe_autocast():
            labels = torch.cat([unseen, target_BT], 1)
            return self.language_model(inputs_embeds=embeds, attention_mask=mask, labels=labels).loss

    def _loss_of_answers(self, queries_BQD: Tensor, samples: Mapping[str, Any]) -> Tensor:
        given, answers = samples["text_input"], samples.get("text_output")
        if answers is None:
            given, answers = zip(*(self._cut(text) for text in given), strict=True)
        embeds, mask = self._behind(queries_BQD, self._tokens(list(given), "right", self.max_txt_len))
        targets = self._tokens(list(answers), "right", self.max_txt_len)
        with self.maybe_autocast():
            return self.language_model(
                inputs_embeds=embeds,
                attention_mask=mask,
                decoder_attention_mask=targets.attention_mask,
                labels=_targets(targets),
            ).loss

    def _cut(self, caption: str) -> tuple[str, str]:
        """What is read of a caption, and what is learned: cut behind the prompt, or at a random word (BLIP-2, 3.2)."""
        return (self.prompt, caption.removeprefix(self.prompt).strip()) if self.prompt else cut_at_random(caption)

    # ---- answers

    @torch.no_grad()
    def _generate(self, texts: list[str], samples: Mapping[str, Any] | None, **options: Any) -> list[str]:
        """What follows the image, if there is one, and the texts; without special tokens."""
        with self.maybe_autocast():
            queries = None if samples is None else self.queries(samples)
            tokens = self._tokens(texts, "right" if self.is_encoder_decoder else "left")
            if queries is None and not tokens.input_ids.shape[1]:  # a tokenizer that puts no token before a text
                tokens = self._tokens([self.end] * len(texts), "left")
            embeds, mask = self._behind(queries, tokens)
            generated = self.language_model.generate(inputs_embeds=embeds, attention_mask=mask, **self.stop, **options)
        return [text.strip() for text in self.llm_words.batch_decode(generated, skip_special_tokens=True)]

    def generate(
        self,
        samples: Mapping[str, Any],
        use_nucleus_sampling: bool = False,
        num_beams: int = 5,
        max_length: int = 30,
        min_length: int = 1,
        top_p: float = 0.9,
        repetition_penalty: float = 1.0,
        length_penalty: float = 1.0,
        num_captions: int = 1,
        temperature: float = 1.0,
    ) -> list[str]:
        """Captions (B * num_captions,) after samples["prompt"], else the model's; lengths are of the caption alone."""
        prompt = samples.get("prompt", self.prompt)
        sampling = {"do_sample": True, "top_p": top_p, "temperature": temperature}
        return self._generate(
            [prompt] * len(samples["image_tokens" if "image_tokens" in samples else "image"]),
            samples,
            num_beams=1 if use_nucleus_sampling else num_beams,
            max_new_tokens=max_length,
            min_new_tokens=min_length,
            repetition_penalty=repetition_penalty,
            length_penalty=length_penalty,
            num_return_sequences=num_captions,
            **(sampling if use_nucleus_sampling else {"do_sample": False}),
        )

    def predict_answers(
        self,
        samples: Mapping[str, Any],
        num_beams: int = 5,
        inference_method: str = "generate",
        max_len: int = 10,
        min_len: int = 1,
        num_ans_candidates: int = 128,
        answer_list: Any = None,
        prompt: str = "",
        length_penalty: float = -1,
        **kwargs: Any,
    ) -> list[str]:
        """Answers (B,) to samples["text_input"] about the image; `prompt` has a {} for the question.

        Lengths are of the answer alone. Greedy with num_beams=1. BLIP-2, section 4.1.
        """
        if inference_method != "generate":
            raise ValueError(f"run.inference_method is {inference_method!r}: a language model only supports generate")
        return self._answer(samples["text_input"], samples, prompt, num_beams, max_len, min_len, length_penalty)

    def answer_without_image(
        self,
        questions: list[str],
        prompt: str = "",
        num_beams: int = 5,
        max_len: int = 10,
        min_len: int = 0,
        length_penalty: float = -1,
    ) -> list[str]:
        """What the language model says to the question alone."""
        return self._answer(questions, None, prompt, num_beams, max_len, min_len, length_penalty)

    def _answer(
        self,
        questions: list[str],
        samples: Mapping[str, Any] | None,
        prompt: str,
        num_beams: int,
        max_len: int,
        min_len: int,
        length_penalty: float,
    ) -> list[str]:
        return self._generate(
            [prompt.format(question) for question in questions] if prompt else list(questions),
            samples,
            do_sample=False,
            num_beams=num_beams,
            max_new_tokens=max_len,
            min_new_tokens=min_len,
            length_penalty=length_penalty,
        )

    @classmethod
    def from_config(cls, cfg: Any) -> Any:
        plain = plain_config(cfg)
        model = cls(
            llm=plain[cls.llm],
            vit_model=plain.get("vit_model", "eva_clip_g"),
            img_size=plain["image_size"],
            num_query_token=plain["num_query_token"],
            **{key: plain[key] for key in (*TOWER, *OWN) if key in plain},
        )
        own_files = tuple(f"{part}." for part in (cls.llm, "visual_encoder") if model.part_files[part])
        load_from_config(model, plain, stage_2_part, may_miss=(*own_files, f"{cls.projection}."))
        return model


def cut_at_random(caption: str) -> tuple[str, str]:
    """Prefix and the rest, at a word drawn by torch's generator; the rest has a word at least."""
    words = caption.split()
    place = int(torch.randint(max(len(words), 1), ()))
    return " ".join(words[:place]), " ".join(words[place:])


def _targets(tokens: Any) -> Tensor:
    return tokens.input_ids.masked_fill(tokens.attention_mask == 0, -100)
