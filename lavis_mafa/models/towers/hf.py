"""Vision towers of transformers for the Q-Former: `hf:NAME_OR_FOLDER`, e.g. `hf:facebook/dinov2-base`.

DINOv2, DINOv3, SigLIP, SigLIP 2, CLIP, ViT and their kind. Tested in tests/models/test_hf_towers.py.
"""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModel

from lavis_mafa.models.towers.grid import GridTower

PREFIX = "hf:"
POOLERS = ("head", "pooler")


class HfTower(GridTower):
    """image (B, 3, H, W) → the tokens of its last layer (B, L, V). `source` is its hub name or folder."""

    def __init__(self, net: nn.Module, image_size: int, source: str) -> None:
        parameters = inspect.signature(net.forward).parameters
        if "spatial_shapes" in parameters:
            raise ValueError(
                f"model.vit_model: {PREFIX}{source} reads patches of any aspect (NaFlex), not images of one size; "
                "take one of a fixed resolution, e.g. hf:google/siglip2-base-patch16-224"
            )
        self.interpolates = "interpolate_pos_encoding" in parameters
        super().__init__(net, image_size)
        self.source = source

    def grid(self, image: Tensor) -> Tensor:
        more = {"interpolate_pos_encoding": True} if self.interpolates else {}
        return self.net(pixel_values=image, **more).last_hidden_state


def build_hf_tower(vit_model: str, image_size: int) -> HfTower:
    """The vision part of a model of transformers, with its weights; another image size interpolates its positions.

    Raises:
        ValueError: neither a folder nor a hub name that can be fetched, or no network that reads images of one size.
    """
    source = vit_model.removeprefix(PREFIX)
    folder = Path(source).expanduser()
    try:
        place = str(folder) if folder.is_dir() else source
        whole: Any = AutoModel.from_pretrained(place, dtype=torch.float32, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"model.vit_model: {source!r} is not a model that is available here ({' '.join(str(error).split())}); "
            "give a hub name that can be fetched here, or a local folder"
        ) from error
    net = getattr(whole, "vision_model", whole)
    if "pixel_values" not in inspect.signature(net.forward).parameters:
        raise ValueError(f"model.vit_model: {source} is a {type(net).__name__}, which reads no images")
    for name in POOLERS:  # the Q-Former reads the tokens; DDP would wait for a pooler's gradient
        if isinstance(getattr(net, name, None), nn.Module):
            setattr(net, name, nn.Identity())
    return HfTower(net, image_size, source)
