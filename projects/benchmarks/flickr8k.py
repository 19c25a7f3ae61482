"""Flickr8k and the networks of its run files, as the benchmarks take them (data below LAVIS_MAFA_DATA)."""

from __future__ import annotations

from typing import Any

import lavis_mafa.compat  # noqa: F401  before the first import of lavis

from lavis.common.registry import registry
from omegaconf import OmegaConf

CONFIGS = {
    "blip2": "projects/mafa/blip2/pretrain_stage1_flickr8k.yaml",
    "albef": "projects/mafa/albef/pretrain_flickr8k.yaml",
}


def model_config(name: str, **changed: Any) -> Any:
    """The `model` section of a run file over its model's defaults; after lavis_mafa.register()."""
    config = OmegaConf.load(CONFIGS[name])
    defaults = registry.get_model_class(config.model.arch).default_config_path(config.model.model_type)
    return OmegaConf.merge(OmegaConf.load(defaults).model, config.model, changed)


def build_model(name: str, **changed: Any) -> Any:
    """The model of a run file, in float32; `changed`: other keys of its section."""
    config = model_config(name, **changed)
    return registry.get_model_class(config.arch).from_config(config).float()


def training_data() -> Any:
    """Flickr8k's training split."""
    config, builder = OmegaConf.load(CONFIGS["blip2"]), registry.get_builder_class("image_text")
    merged = OmegaConf.merge(OmegaConf.load(builder.default_config_path()), {"datasets": config.datasets})
    return builder(merged.datasets.image_text).build_datasets()["train"]
