"""The two encoders of an ALBEF, and the layouts of published weights. Tested in tests/models/test_albef_weights.py."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from typing import Any

from lavis.common.utils import get_abs_path
from lavis.models.med import BertConfig, BertForMaskedLM
from lavis.models.vit import VisionTransformerEncoder, interpolate_pos_embed
from torch import Tensor, nn

from lavis_mafa.models.bert import fold_token_types, start_from_bert
from lavis_mafa.models.pretrained import CHECKPOINT_KEYS, checkpoint_key, weights_file
from lavis_mafa.models.towers.build import build_tower
from lavis_mafa.models.weights import fit_state, read_state_dict

MOMENTUM = tuple(
    f"{part}_m." for part in ("visual_encoder", "text_encoder", "text_decoder", "vision_proj", "text_proj", "cls_head")
)
QUEUES = ("image_queue", "text_queue", "idx_queue", "queue_ptr", "ptr_queue")
# of every ALBEF's model config
ALBEF_KEYS = (
    *CHECKPOINT_KEYS,
    *("vit_model", "vit_weights", "image_size", "freeze_vit", "vocab", "text_encoder"),
    # of LAVIS' ViT, where vit_model is null
    *("vit_type", "vit_ckpt_layer", "vit_drop_path_rate", "vit_layer_norm_epsilon", "vit_grad_ckpt"),
)


def files_of_parts(cfg: Mapping[str, Any], reads_bert: bool = True) -> tuple[str | None, str | None]:
    """`vit_weights` and `bert` where they count: what a checkpoint will give is not fetched from elsewhere first."""
    starts = checkpoint_key(cfg) is None
    vit_weights = cfg.get("vit_weights") if starts or cfg.get("freeze_vit", False) else None
    return vit_weights, cfg.get("bert") if starts and reads_bert else None


def build_visual_encoder(cfg: Mapping[str, Any], weights: str | None) -> nn.Module:
    """`vit_model` of models/towers/, or without one LAVIS' ViT of `vit_type` from a DeiT file, resized.

    Raises:
        ValueError: weights that are missing or of another network, key by key.
    """
    if cfg.get("vit_model"):
        return build_tower(cfg["vit_model"], cfg["image_size"], weights)
    tower = VisionTransformerEncoder.from_config(cfg)
    if weights is not None:
        start_from_deit(tower, weights)
    return tower


def start_from_deit(tower: nn.Module, weights: str) -> None:
    content = read_state_dict(weights_file(weights))
    state = {key: value for key, value in content.items() if not key.startswith("head")}
    fit_state(tower, _with_positions(state, "pos_embed", tower), weights)


def build_text_encoder(cfg: Mapping[str, Any], encoder_width: int, vocab_size: int, bert: str | None) -> nn.Module:
    """BERT with a fusion half: LAVIS' med_config_albef.json with the widths of `text_encoder`; from `bert`, if given.

    Raises:
        ValueError: `bert` is neither a local folder nor a name that can be fetched.
    """
    config = bert_config(cfg, encoder_width, vocab_size)
    if bert is None:
        return BertForMaskedLM(config)
    try:
        return start_from_bert(BertForMaskedLM, bert, config)
    except (OSError, RuntimeError) as error:
        raise ValueError(
            f"model.bert: {bert!r} is not available here, or is not a BERT of these widths ({error}); set it to a "
            "local folder "
            "with its weights, to null to start untrained, or set model.load_pretrained: true and model.pretrained"
        ) from error


def bert_config(cfg: Mapping[str, Any], encoder_width: int, vocab_size: int, **changed: int) -> BertConfig:
    """LAVIS' med_config_albef.json with the widths of `text_encoder`, then what is `changed`."""
    with open(get_abs_path("configs/models/med_config_albef.json")) as file:
        values = {**json.load(file), "encoder_width": encoder_width, "vocab_size": vocab_size}
    return BertConfig(**{**values, **(cfg.get("text_encoder") or {}), **changed})


def adapt_albef(state: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """The tensors of an official ALBEF, GRIT-VLP or MAFA file, or of LAVIS' ALBEF models, under `mafa_albef`'s keys.

    Momentum copies and queues are dropped, token types are folded into the positions of words (models/bert.py), a
    retrieval model's `text_encoder.X` becomes `text_encoder.bert.X`, and the positions of patches are interpolated to
    the model's resolution.
    """
    kept = {key: value for key, value in state.items() if not key.startswith(MOMENTUM + QUEUES)}
    renamed = {_with_bert(key): value for key, value in fold_token_types(kept).items()}
    logging.info(
        "ALBEF layout: dropped %d momentum and queue tensors, added the prefix `bert.` to %d keys",
        len(state) - len(kept),
        sum(key not in kept for key in renamed),
    )
    return _with_positions(renamed, "visual_encoder.pos_embed", model.visual_encoder)


def _with_bert(key: str) -> str:
    head, _, rest = key.partition(".")
    return f"{head}.bert.{rest}" if head == "text_encoder" and not rest.startswith(("bert.", "cls.")) else key


def _with_positions(state: dict[str, Tensor], key: str, tower: nn.Module) -> dict[str, Tensor]:
    if key not in state or not hasattr(tower, "patch_embed"):
        return state
    return {**state, key: interpolate_pos_embed(state[key], tower)}
