"""A tiny CLIP of open_clip's own classes, with random weights; nothing is fetched."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import open_clip
import torch

CONFIG: dict[str, Any] = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}


def tiny_clip(**vision: Any) -> Any:
    torch.manual_seed(0)
    config = {**CONFIG, "vision_cfg": {**CONFIG["vision_cfg"], **vision}}
    return open_clip.CLIP(**config, output_dict=True)


def register_tiny(folder: Path, name: str, **vision: Any) -> None:
    """open_clip.create_model(name) makes the tiny CLIP from now on."""
    path = folder / f"{name}.json"
    path.write_text(json.dumps({**CONFIG, "vision_cfg": {**CONFIG["vision_cfg"], **vision}}))
    open_clip.add_model_config(path)
