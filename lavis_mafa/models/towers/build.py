"""Vision towers for the Q-Former: image (B, 3, H, W) → tokens (B, L, V).

`vit_model` names one: LAVIS' `eva_clip_g` and `clip_L`, or one of TOWERS, to which a plugin may add: `small_vit`,
`torchvision:NAME` and `timm:NAME`, which read their weights from `vit_weights`, a local file, `open_clip:NAME/TAG`
(openclip.py) and `hf:NAME_OR_FOLDER` (hf.py), which bring their own; only a tag or a hub name is downloaded. A tower
has `num_features`, its V.

    @TOWERS.add("mine:NAME")
    def build(name: str, image_size: int, weights: str | None) -> nn.Module: ...
"""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn

from lavis_mafa.common.artifacts import reading
from lavis_mafa.common.files import local_file
from lavis_mafa.common.registry import Registry
from lavis_mafa.models.towers.grid import HEADS, TimmTower, TorchvisionTower, drop_head
from lavis_mafa.models.towers.small_vit import SmallViT
from lavis_mafa.models.weights import fit_state, read_metadata, read_state_dict

LAVIS_TOWERS = ("eva_clip_g", "clip_L")
Build = Callable[[str, int, str | None], nn.Module]  # what follows the colon, image size, weights → a tower
TOWERS: Registry[Build] = Registry("tower")


def build_tower(name: str, image_size: int, weights: str | None) -> nn.Module:
    """Build a non-LAVIS tower with its local weights (None: as initialised).

    Raises:
        ValueError: an unknown name, a missing file, or weights of another network, key by key.
    """
    kind, _, rest = name.partition(":")
    asked = (kind, bool(rest))
    form = next((form for form in TOWERS if (form.partition(":")[0], ":" in form) == asked), None)
    if form is None:
        raise ValueError(f"model.vit_model: unknown tower {name!r}; choose {', '.join((*LAVIS_TOWERS, *TOWERS))}")
    return TOWERS[form](rest, image_size, weights)


def half_as_it_is(tower: nn.Module) -> AbstractContextManager[Any]:
    """A tower whose weights are in half precision (vit_precision: fp16) takes float32 images under autocast alone."""
    weight = next(tower.parameters())
    half = weight.dtype in (torch.float16, torch.bfloat16)
    return torch.autocast(weight.device.type, weight.dtype) if half else nullcontext()


@TOWERS.add("small_vit")
def _small_vit(_: str, image_size: int, weights: str | None) -> SmallViT:
    if weights is None:
        return SmallViT(image_size=image_size)
    path = local_file(weights)
    with reading(path, "tower"):
        config = dict(json.loads(read_metadata(path).get("config", "{}")))
    if config.get("image_size", image_size) != image_size:
        raise ValueError(f"model.image_size is {image_size}, but {path.name} was trained at {config['image_size']}")
    with reading(path, "tower"):
        tower = SmallViT(**config)
    fit_state(tower, read_state_dict(path), source=str(path))
    return tower


@TOWERS.add("torchvision:NAME")
def _torchvision(name: str, image_size: int, weights: str | None) -> TorchvisionTower:
    return TorchvisionTower(_backbone(_torchvision_net(name), weights), image_size)


@TOWERS.add("timm:NAME")
def _timm(name: str, image_size: int, weights: str | None) -> TimmTower:
    return TimmTower(_backbone(_timm_net(name), weights), image_size)


@TOWERS.add("hf:NAME_OR_FOLDER")
def _hf(source: str, image_size: int, weights: str | None) -> nn.Module:
    from lavis_mafa.models.towers.hf import build_hf_tower

    if weights is not None:
        raise ValueError(f"model.vit_weights is {weights!r}, but hf:{source} brings its own weights; leave it out")
    return build_hf_tower(source, image_size)


@TOWERS.add("open_clip:NAME/TAG")
def _open_clip(name: str, image_size: int, weights: str | None) -> nn.Module:
    from lavis_mafa.models.towers.openclip import build_openclip_tower

    return build_openclip_tower(name, image_size, weights)


def _torchvision_net(name: str) -> nn.Module:
    from torchvision import models

    if name not in models.list_models(module=models):  # detectors and segmenters would fetch their backbone
        raise ValueError(f"model.vit_model: torchvision has no model {name!r}; see torchvision.models.list_models()")
    return models.get_model(name, weights=None)


def _timm_net(name: str) -> nn.Module:
    import timm

    if name not in timm.list_models():
        raise ValueError(f"model.vit_model: timm {timm.__version__} has no model {name!r}; see timm.list_models()")
    return timm.create_model(name, pretrained=False)


def _backbone(net: nn.Module, weights: str | None) -> nn.Module:
    """The network without its classifier, with the weights where there are any."""
    drop_head(net)
    if weights is not None:
        _load_backbone(net, weights)
    return net


def _load_backbone(net: nn.Module, weights: str) -> None:
    heads = tuple(f"{name}." for name in HEADS)
    trunk = {key: value for key, value in read_state_dict(local_file(weights)).items() if not key.startswith(heads)}
    counters = {key: value for key, value in net.state_dict().items() if key.endswith("num_batches_tracked")}
    try:
        fit_state(net, counters | trunk, weights)  # older files lack the counters
    except ValueError as error:
        raise ValueError(f"model.vit_weights and model.vit_model: {error}") from error
