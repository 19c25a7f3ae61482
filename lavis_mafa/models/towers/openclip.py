"""OpenCLIP's vision towers for the Q-Former: `open_clip:NAME`, `open_clip:NAME/TAG`, `open_clip:NAME/FILE`.

NAME is one of open_clip.list_models(), TAG one of its pretrained tags, FILE a local checkpoint of the whole CLIP model.
What cannot work is refused before open_clip fetches anything. Tested in tests/models/test_openclip_tower.py.
"""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip.modified_resnet import ModifiedResNet
from open_clip.pretrained import get_pretrained_cfg, list_pretrained_tags_by_model
from open_clip.transform import PreprocessCfg, merge_preprocess_dict
from open_clip.transformer import VisionTransformer
from torch import Tensor, nn

from lavis_mafa.models.towers.grid import GridTower, drop_head
from lavis_mafa.openclip.names import brings_weights, model_config, preprocessing

PREFIX = "open_clip:"
KEY = "model.vit_model"


@dataclass(frozen=True)
class TowerName:
    """A name of open_clip's, and the tag or local file of its weights (None: as initialised, or its own)."""

    model: str
    pretrained: str | None

    @classmethod
    def parse(cls, vit_model: str, weights: str | None = None) -> TowerName:
        """`open_clip:NAME` or `open_clip:NAME/TAG_OR_FILE`; `weights` is the tag or file where the name has none.
        `open_clip:hf-hub:ORG/NAME` and `open_clip:local-dir:FOLDER` bring their own.

        Raises:
            ValueError: an unknown name or tag, no such file or folder, or weights beside a name that brings its own.
        """
        name = vit_model.removeprefix(PREFIX)
        if brings_weights(name):
            if weights is not None:
                raise ValueError(f"model.vit_weights is {weights!r}, but {name} brings its own weights; leave it out")
            model_config(name, KEY)
            return cls(name, None)
        model, _, pretrained = name.partition("/")
        parsed = cls(model, pretrained or weights)
        parsed._check()
        return parsed

    @property
    def is_tag(self) -> bool:
        return self.pretrained in list_pretrained_tags_by_model(self.model)

    @property
    def has_weights(self) -> bool:
        return self.pretrained is not None or brings_weights(self.model)

    @property
    def source(self) -> str | None:
        """The tag, the path of the file, or the name that brings its own weights."""
        if brings_weights(self.model):
            return self.model
        return self.pretrained if self.pretrained is None or self.is_tag else str(Path(self.pretrained).expanduser())

    @property
    def tag_or_file(self) -> str | None:
        """What open_clip takes as `pretrained`."""
        return None if brings_weights(self.model) else self.source

    @property
    def preprocessing(self) -> PreprocessCfg:
        """Size, mean and std of the images that the weights were trained on; what open_clip itself would prepare."""
        size = model_config(self.model, KEY)["vision_cfg"].get("image_size", 224)
        published = get_pretrained_cfg(self.model, self.pretrained) if self.is_tag else {}
        if brings_weights(self.model):
            published = preprocessing(self.model, KEY)
        return PreprocessCfg(**merge_preprocess_dict(merge_preprocess_dict(PreprocessCfg(), published), {"size": size}))

    def _check(self) -> None:
        model_config(self.model, KEY)
        if self.pretrained is not None and not self.is_tag and not Path(self.pretrained).expanduser().is_file():
            tags = ", ".join(list_pretrained_tags_by_model(self.model)) or "none"
            raise ValueError(
                f"model.vit_model: {self.pretrained!r} is neither a local file nor a tag of {self.model}: {tags}"
            )


class OpenClipTower(GridTower):
    """image (B, 3, H, W) → tokens (B, L, V). A ViT gives the class token and the patches of its last block but one.

    The last block is left out as BLIP-2 leaves out that of its ViT-L (arXiv 2301.12597, section 3.4); the norm after it
    would only stand before the Q-Former's own. `source` is the tag or file of the weights, None as initialised.
    """

    def __init__(self, net: nn.Module, image_size: int, source: str | None) -> None:
        if isinstance(net, VisionTransformer):
            net.prune_intermediate_layers([-2], prune_norm=True)
            net.attn_pool = net.attn_pool_contrastive = None  # CoCa's
        elif isinstance(net, ModifiedResNet):
            net.attnpool = nn.Identity()
        else:  # timm's
            net.head = nn.Identity()
            drop_head(net.trunk)
        super().__init__(net, image_size)
        self.source = source

    def grid(self, image: Tensor) -> Tensor:
        net: Any = self.net
        if isinstance(net, ModifiedResNet):
            return net.forward_intermediates(image, indices=1, intermediates_only=True)["image_intermediates"][-1]
        if not isinstance(net, VisionTransformer):
            return net.trunk.forward_features(image)  # timm's
        kept = net.forward_intermediates(
            image, indices=1, intermediates_only=True, output_fmt="NLC", output_extra_tokens=True
        )
        return torch.cat([kept["image_intermediates_prefix"][-1], kept["image_intermediates"][-1]], dim=1)


def create_openclip_model(name: TowerName, image_size: int | None) -> Any:
    """The whole CLIP model with its weights; another image size than its own interpolates the positions.

    Raises:
        ValueError: a file that does not fit the model, with what open_clip says of it.
    """
    cache = os.environ.get("LAVIS_MAFA_CACHE")
    cache_dir = str(Path(cache) / "open_clip") if cache else None
    try:
        return open_clip.create_model(name.model, name.tag_or_file, force_image_size=image_size, cache_dir=cache_dir)
    except RuntimeError as error:
        raise ValueError(f"model.vit_model: {name.source} does not fit {name.model}: {error}") from error


def build_openclip_tower(vit_model: str, image_size: int | None, weights: str | None) -> OpenClipTower:
    """The tower of an OpenCLIP model; another image size than its own interpolates the positions (None: its own).

    Raises:
        ValueError: see TowerName.parse and create_openclip_model.
    """
    name = TowerName.parse(vit_model, weights)
    model = create_openclip_model(name, image_size)
    size = name.preprocessing.size if image_size is None else image_size
    return OpenClipTower(model.visual, size if isinstance(size, int) else size[0], name.source)


def image_settings(vit_model: str) -> dict[str, Any]:
    """OpenCLIP's preprocessing of a tower as plain values: size, mean, std, interpolation, resize_mode, ..."""
    return asdict(TowerName.parse(vit_model).preprocessing)
