"""What `mafa_blip2_opt` and `mafa_blip2_t5` share: a frozen language model behind any tower and any Q-Former.

The language model is frozen and comes from its own file: a hub name, a local folder, or `package:FOLDER`. Stage-1
checkpoints (mafa_blip2's and LAVIS') and stage-2 checkpoints load by `model.pretrained`, key by key
(models/pretrained.py).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lavis_mafa.common.config_file import plain_config
from lavis_mafa.common.files import PACKAGE
from lavis_mafa.models.blip2.parts import QformerParts
from lavis_mafa.models.pretrained import load_from_config
from lavis_mafa.models.towers.build import half_as_it_is

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
STAGE_1_HEADS = ("itm_head.", "vision_proj.", "text_proj.", "temp", "Qformer.")  # dropped where stage 2 has no such key
LAVIS_KEYS = ("drop_path_rate", "use_grad_checkpoint", "vit_precision", "freeze_vit", "max_txt_len", "prompt")


class LanguageModelParts(QformerParts):
    """Mixin before LAVIS' blip2_opt and blip2_t5. `llm`: the attribute that holds the language model."""

    llm: str
    projection: str
    tokenizer_name: str
    half: torch.dtype  # the precision that LAVIS gives the language model on a GPU

    def __init__(
        self,
        *,
        vocab: str = "bert-base-uncased",
        bert: str = "bert-base-uncased",
        qformer: Mapping[str, Any] | None = None,
        vit_weights: str | None = None,
        llm_precision: str | None = None,
        **lavis: Any,
    ) -> None:
        self._vocab, self._bert, self._qformer, self._vit_weights = vocab, bert, qformer, vit_weights
        lavis[self.llm] = language_model_folder(lavis[self.llm])
        try:
            super().__init__(**lavis)
        except OSError as error:
            raise ValueError(
                f"model.{self.llm}: {lavis[self.llm]!r} or a part of it is not available ({error}); "
                f"set it to a hub name that can be downloaded here, or to a local folder with weights and tokenizer"
            ) from error
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self.set_llm_precision(lavis[self.llm], PRECISIONS[precision_name(llm_precision, self.half, device)])
        # a CPU's autocast, unlike a GPU's, leaves layer norms to refuse another precision than their own
        getattr(self, self.projection).register_forward_hook(
            lambda module, args, queries: queries.to(next(self.language_model.parameters()).dtype)
        )
        _pass_tokens_through(self.visual_encoder)
        self.set_part_files(lavis.get("vit_model", "eva_clip_g"))
        self.part_files[self.llm] = str(lavis[self.llm])
        self.parts_of_own_files = (f"{self.llm}.",)  # no checkpoint holds them

    def set_llm_precision(self, source: str, dtype: torch.dtype) -> None:
        self.language_model.to(dtype)

    @property
    def language_model(self) -> nn.Module:
        return getattr(self, self.llm)

    def maybe_autocast(self, dtype: Any = None) -> Any:
        """LAVIS' autocast, in the language model's precision."""
        own = next(self.language_model.parameters()).dtype
        return torch.autocast(self.device.type, own, enabled=own != torch.float32)

    def forward(self, samples: Mapping[str, Any]) -> dict[str, Tensor]:
        return super().forward(with_tokens(samples))

    def generate(self, samples: Mapping[str, Any], **options: Any) -> list[str]:
        return super().generate(with_tokens(samples), **options)

    @torch.no_grad()
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
        tokenizer = getattr(self, self.tokenizer_name)
        tokenizer.padding_side = "left"
        asked = tokenizer(with_prompt(questions, prompt), return_tensors="pt", padding="longest").to(self.device)
        generated = self.language_model.generate(
            input_ids=asked.input_ids,
            attention_mask=asked.attention_mask,
            num_beams=num_beams,
            max_new_tokens=max_len,
            min_new_tokens=min_len,
            length_penalty=length_penalty,
            **self.stop,
        )
        skipped = 0 if self.language_model.config.is_encoder_decoder else asked.input_ids.shape[1]
        return [text.strip() for text in tokenizer.batch_decode(generated[:, skipped:], skip_special_tokens=True)]

    def tokens_before(self, prompt: str) -> int:
        """How many tokens stand before a caption, which transformers' min_length counts: T5's start, OPT's prompt."""
        if self.language_model.config.is_encoder_decoder:
            return 1
        return len(getattr(self, self.tokenizer_name)(prompt).input_ids)

    @property
    def stop(self) -> dict[str, int]:
        return {}

    @classmethod
    def from_config(cls, cfg: Any) -> Any:
        plain = plain_config(cfg)
        model = cls(
            vocab=plain.get("vocab", "bert-base-uncased"),
            bert=plain.get("bert", "bert-base-uncased"),
            qformer=plain.get("qformer"),
            vit_weights=plain.get("vit_weights"),
            llm_precision=plain.get("llm_precision"),
            vit_model=plain.get("vit_model", "eva_clip_g"),
            img_size=plain["image_size"],
            num_query_token=plain["num_query_token"],
            **{cls.llm: plain[cls.llm]},
            **{key: plain[key] for key in LAVIS_KEYS if key in plain},
        )
        own_files = tuple(f"{part}." for part in (cls.llm, "visual_encoder") if model.part_files[part])
        load_from_config(model, plain, _stage_2_part, may_miss=(*own_files, f"{cls.projection}."))
        return model


def with_prompt(questions: list[str], prompt: str) -> list[str]:
    return [prompt.format(question) for question in questions] if prompt else list(questions)


def language_model_folder(name: str) -> str:
    """A hub name as it is, a local folder, or `package:FOLDER`."""
    if name.startswith("package:"):
        return str(PACKAGE / name[len("package:") :])
    path = Path(name).expanduser()
    if not path.is_dir() and (path.is_absolute() or name.startswith(".")):
        raise ValueError(f"no folder at {name}; give a local folder of a language model, or a hub name")
    return str(path) if path.is_dir() else name


def precision_name(asked: str | None, half: torch.dtype, device: str) -> str:
    """fp32, bf16 or fp16 on a device. None asked: on a GPU LAVIS' `half`, or fp32 where it lacks that; on a CPU fp32.

    Raises:
        ValueError: an unknown precision, or one that the device cannot do.
    """
    if asked is not None and asked not in PRECISIONS:
        raise ValueError(f"model.llm_precision is {asked!r}; choose one of {', '.join(PRECISIONS)}")
    if device == "cpu":
        if asked == "fp16":
            raise ValueError("model.llm_precision is fp16, which needs a GPU: use bf16 or fp32 on a CPU")
        return asked or "fp32"
    name = asked or next(name for name, dtype in PRECISIONS.items() if dtype == half)
    if name != "bf16" or torch.cuda.is_bf16_supported(including_emulation=False):
        return name
    if asked:
        raise ValueError("model.llm_precision is bf16, which this GPU does not support: use fp16 or fp32")
    logging.warning("this GPU does not support bf16: the language model runs in fp32")
    return "fp32"


def with_tokens(samples: Mapping[str, Any]) -> dict[str, Any]:
    """A sample's cached tower tokens in place of its image."""
    return {**samples, "image": samples["image_tokens"]} if "image_tokens" in samples else dict(samples)


def _pass_tokens_through(tower: nn.Module) -> None:
    """LAVIS hands samples["image"] to the tower: tokens (B, L, V) come back as they are."""
    see = tower.forward

    def forward(image: Tensor) -> Tensor:
        with half_as_it_is(tower):
            return (image if image.dim() == 3 else see(image)).float()

    tower.forward = forward


def _stage_2_part(state: Mapping[str, Tensor], model: nn.Module) -> Mapping[str, Tensor]:
    """What stage 2 takes of a checkpoint: of stage 1 its queries, Q-Former and norm, less its heads and text weights.

    Raises:
        ValueError: a checkpoint that is neither: it would leave the projection untrained.
    """
    is_stage_1 = "vision_proj.weight" in state
    if not is_stage_1 and f"{model.projection}.weight" not in state:
        raise ValueError(
            f"model.pretrained: the checkpoint has neither stage 1's vision_proj nor stage 2's {model.projection}; "
            "choose the arch that it was saved with"
        )
    own = model.state_dict()
    return {key: value for key, value in state.items() if key in own or not (is_stage_1 and _of_stage_1(key))}


def _of_stage_1(key: str) -> bool:
    return key.startswith(STAGE_1_HEADS)
