"""A bi-encoder of open_clip as judge (`run.con_d: {arch: open_clip, ...}`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from lavis.processors import load_processor
from omegaconf import OmegaConf

from lavis_mafa.models.openclip import ClipTokenizer
from lavis_mafa.models.towers.openclip import TowerName, create_openclip_model
from lavis_mafa.openclip import BiEncoderScorer
from lavis_mafa.scorers.networks import fingerprint


def build_bi_encoder(cfg: Mapping[str, Any], device: torch.device, section: str = "run.con_d") -> BiEncoderScorer:
    """A bi-encoder in Con-D's place: `{arch: open_clip, vit_model: open_clip:NAME/TAG_OR_FILE}`.

    Raises:
        ValueError: an unknown name or tag, no such file, or no weights: never a silently random network.
    """
    name = TowerName.parse(str(cfg.get("vit_model")))
    if name.pretrained is None:
        raise ValueError(f"{section}.vit_model names no weights; give {cfg.get('vit_model')}/TAG_OR_FILE")
    model = create_openclip_model(name, None).to(device)
    vis_processor = load_processor("open_clip_image_eval", OmegaConf.create({"vit_model": cfg["vit_model"]}))
    return BiEncoderScorer(model, ClipTokenizer(name.model), vis_processor, fingerprint(model))
