"""`mafa_blip2_opt`, `mafa_blip2_t5`: BLIP-2 stage 2, LAVIS' classes on any tower, Q-Former and language model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from lavis.common.registry import registry
from lavis.models.blip2_models.blip2_opt import Blip2OPT
from lavis.models.blip2_models.blip2_t5 import Blip2T5
from torch import Tensor

from lavis_mafa.common.files import CONFIGS
from lavis_mafa.models.blip2.language_model import LanguageModelParts, with_prompt, with_tokens
from lavis_mafa.models.blip2.parts import QFORMER_KEYS
from lavis_mafa.models.pretrained import CHECKPOINT_KEYS

LANGUAGE_MODEL_KEYS = (*CHECKPOINT_KEYS, *QFORMER_KEYS, "llm_precision", "prompt")


@registry.register_model("mafa_blip2_opt")
class MafaBlip2OPT(LanguageModelParts, Blip2OPT):
    """LAVIS' `blip2_opt`; also answers questions, which LAVIS 1.0.2 leaves out."""

    PRETRAINED_MODEL_CONFIG_DICT = {
        **Blip2OPT.PRETRAINED_MODEL_CONFIG_DICT,
        "scenes": str(CONFIGS / "models" / "mafa_blip2_opt_scenes.yaml"),
        "small": str(CONFIGS / "models" / "mafa_blip2_opt_small.yaml"),
    }
    config_keys = (*LANGUAGE_MODEL_KEYS, "opt_model")
    llm, projection, tokenizer_name, half = "opt_model", "opt_proj", "opt_tokenizer", torch.float16

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        prepare = self.opt_model.prepare_inputs_for_generation

        def with_cache(input_ids: Tensor, past_key_values: Any = None, **kwargs: Any) -> dict[str, Any]:
            # LAVIS' OPT knows the cache as `past`, which transformers no longer says: every step read all tokens again
            return prepare(input_ids, past=past_key_values, **kwargs)

        self.opt_model.prepare_inputs_for_generation = with_cache

    @property
    def stop(self) -> dict[str, int]:
        return {"eos_token_id": self.eos_token_id}  # the newline

    @torch.no_grad()
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
        """Answers (B,) to samples["text_input"], the first line of what OPT says after image and question.

        The question goes in as embeddings but for its last token, so that the length penalty counts the answer alone.
        `prompt` has a {} for the question; min_len counts that last token, max_len does not. Greedy with num_beams=1.
        BLIP-2, section 4.1.
        """
        if inference_method != "generate":
            raise ValueError(f"run.inference_method is {inference_method!r}: mafa_blip2_opt only supports generate")
        with self.maybe_autocast():
            queries_BQD = self.opt_proj(self.query_states(samples))
            embeds_BPD, mask_BP, last_B1 = self._question_embeds(samples["text_input"], prompt)
            prefix = torch.cat([queries_BQD, embeds_BPD.to(queries_BQD.dtype)], dim=1)
            generated = self.opt_model.generate(
                input_ids=last_B1,
                query_embeds=prefix.repeat_interleave(num_beams, dim=0),
                attention_mask=torch.cat([mask_BP.new_ones(queries_BQD.shape[:2]), mask_BP], dim=1),
                do_sample=False,
                num_beams=num_beams,
                max_new_tokens=max_len,
                min_length=min_len,
                length_penalty=length_penalty,
                **self.stop,
            )
        return [text.strip() for text in self.opt_tokenizer.batch_decode(generated[:, 1:], skip_special_tokens=True)]

    def query_states(self, samples: Mapping[str, Any]) -> Tensor:
        """The Q-Former's queries after the image (B, Q, hidden)."""
        image_embeds = self.ln_vision(self.visual_encoder(with_tokens(samples)["image"]))
        queries = self.query_tokens.expand(len(image_embeds), -1, -1)
        output = self.Qformer.bert(query_embeds=queries, encoder_hidden_states=image_embeds, return_dict=True)
        return output.last_hidden_state

    def _question_embeds(self, questions: list[str], prompt: str) -> tuple[Tensor, Tensor, Tensor]:
        """Left-padded questions: embeddings of all but the last token (B, P-1, D), mask (B, P), last token (B, 1)."""
        self.opt_tokenizer.padding_side = "left"
        asked = with_prompt(questions, prompt)
        tokens = self.opt_tokenizer(asked, return_tensors="pt", padding="longest").to(self.device)
        embeds = self.opt_model.get_input_embeddings()(tokens.input_ids[:, :-1])
        return embeds, tokens.attention_mask, tokens.input_ids[:, -1:]


@registry.register_model("mafa_blip2_t5")
class MafaBlip2T5(LanguageModelParts, Blip2T5):
    """LAVIS' `blip2_t5`; in stage 2 a caption is cut at a random word: the rest is generated (BLIP-2, section 3.2).

    With `prompt`, as for fine-tuning, it is cut behind the prompt.
    """

    PRETRAINED_MODEL_CONFIG_DICT = {
        **Blip2T5.PRETRAINED_MODEL_CONFIG_DICT,
        "scenes": str(CONFIGS / "models" / "mafa_blip2_t5_scenes.yaml"),
    }
    config_keys = (*LANGUAGE_MODEL_KEYS, "t5_model")
    llm, projection, tokenizer_name, half = "t5_model", "t5_proj", "t5_tokenizer", torch.bfloat16

    def set_llm_precision(self, source: str, dtype: torch.dtype) -> None:
        """LAVIS rounds the weights to bfloat16: another precision reads them again."""
        if dtype != torch.bfloat16:
            t5 = type(self.t5_model).from_pretrained(source, config=self.t5_model.config, torch_dtype=dtype)
            self.t5_model = t5.requires_grad_(False)

    def forward(self, samples: Mapping[str, Any]) -> dict[str, Tensor]:
        """Without `text_output` the samples are captions."""
        if "text_output" not in samples:
            cut = [self._cut(text) for text in samples["text_input"]]
            samples = {**samples, "text_input": [head for head, _ in cut], "text_output": [tail for _, tail in cut]}
        return super().forward(samples)

    def _cut(self, caption: str) -> tuple[str, str]:
        return (self.prompt, caption.removeprefix(self.prompt).strip()) if self.prompt else cut_at_random(caption)

    @torch.no_grad()
    def predict_answers(self, samples: Mapping[str, Any], **options: Any) -> list[str]:
        return [text.strip() for text in Blip2T5.predict_answers(self, with_tokens(samples), **options)]


def cut_at_random(caption: str) -> tuple[str, str]:
    """Prefix and the rest, at a word drawn by torch's generator; the rest has a word at least."""
    words = caption.split()
    place = int(torch.randint(max(len(words), 1), ()))
    return " ".join(words[:place]), " ".join(words[place:])
