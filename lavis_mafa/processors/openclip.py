"""`open_clip_image_train`, `open_clip_image_eval`: images as the tower of `vit_model` was trained to see them."""

from __future__ import annotations

from inspect import isfunction
from typing import Any

from lavis.common.registry import registry
from lavis.processors.base_processor import BaseProcessor
from lavis.processors.blip_processors import BlipImageTrainProcessor
from torchvision.transforms import Compose, Lambda


@registry.register_processor("open_clip_image_train")
class OpenClipImageTrain(BlipImageTrainProcessor):
    """LAVIS' `blip_image_train` with the tower's size, mean and std."""

    config_keys = ("vit_model", "image_size", "min_scale", "max_scale")

    @classmethod
    def from_config(cls, cfg: Any = None) -> OpenClipImageTrain:
        """cfg: `vit_model` as the model has it, and of `blip_image_train` image_size, min_scale, max_scale."""
        seen = _settings(cfg)
        more = {name: cfg[name] for name in ("min_scale", "max_scale") if name in cfg}
        return cls(image_size=seen.size, mean=seen.mean, std=seen.std, **more)


@registry.register_processor("open_clip_image_eval")
class OpenClipImageEval(BaseProcessor):
    """OpenCLIP's own preprocessing for evaluation, at `image_size` where one is given."""

    config_keys = ("vit_model", "image_size")

    @classmethod
    def from_config(cls, cfg: Any = None) -> OpenClipImageEval:
        from open_clip.transform import image_transform_v2

        processor = cls()
        steps = image_transform_v2(_settings(cfg), is_train=False).transforms
        # a plain function's repr holds its address, and fingerprints are made of the repr
        processor.transform = Compose([Lambda(step) if isfunction(step) else step for step in steps])
        return processor

    def __call__(self, item: Any) -> Any:
        return self.transform(item)


def _settings(cfg: Any) -> Any:
    from open_clip.transform import PreprocessCfg, merge_preprocess_dict

    from lavis_mafa.models.towers.openclip import image_settings

    if cfg is None or "vit_model" not in cfg:
        raise ValueError(
            "vis_processor open_clip_image_*: set vit_model: open_clip:NAME/TAG, the tower that sees the images"
        )
    return PreprocessCfg(**merge_preprocess_dict(image_settings(cfg["vit_model"]), {"size": cfg.get("image_size")}))
