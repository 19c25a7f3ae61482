"""`albef_image_train`: the image augmentation that ALBEF, GRIT-VLP and MAFA pre-train with."""

from __future__ import annotations

from typing import Any

from lavis.common.registry import registry
from lavis.processors.blip_processors import BlipImageTrainProcessor
from lavis.processors.randaugment import RandomAugment


@registry.register_processor("albef_image_train")
class AlbefImageTrainProcessor(BlipImageTrainProcessor):
    """LAVIS' `blip_image_train` with crops from 0.2 and RandAugment(2, 7) (ALBEF's published code)."""

    config_keys = ("image_size", "mean", "std", "min_scale", "max_scale")

    def __init__(
        self, image_size: int = 256, mean: Any = None, std: Any = None, min_scale: float = 0.2, max_scale: float = 1.0
    ):
        super().__init__(image_size, mean, std, min_scale, max_scale)
        for step in self.transform.transforms:
            if isinstance(step, RandomAugment):
                step.M = 7

    @classmethod
    def from_config(cls, cfg: Any = None) -> AlbefImageTrainProcessor:
        return cls(**{name: cfg[name] for name in cls.config_keys if cfg is not None and name in cfg})
