"""What a training leaves to build its model again: model.safetensors, and config.yaml beside it.

Tested in tests/models/test_saved.py.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml
from lavis.common.registry import registry
from lavis.models import load_preprocess
from lavis.models.base_model import BaseModel
from omegaconf import DictConfig, OmegaConf

from lavis_mafa.common.artifacts import atomic_write, reading
from lavis_mafa.common.config_file import changed_texts, loaded, plain_config
from lavis_mafa.common.formats import check_format, header
from lavis_mafa.common.references import check_references

WEIGHTS, CONFIG = "model.safetensors", "config.yaml"
Processors = Mapping[str, Callable[[Any], Any]]


class Loaded(NamedTuple):
    """In the order of LAVIS' load_model_and_preprocess; of each kind of processor there are `train` and `eval`."""

    model: BaseModel
    vis_processors: Processors
    text_processors: Processors


def write_config(folder: Path, model: DictConfig, dataset: DictConfig) -> None:
    """config.yaml for the weights in `folder`: the model as it was built, and how its data was prepared.

    Paths that are relative to the working folder become absolute, so that the model loads from anywhere.
    """
    sections = {
        **header("model"),
        "model": changed_texts(dict(plain_config(model)), _absolute),
        "preprocess": {name: plain_config(dataset)[name] for name in ("vis_processor", "text_processor")},
    }
    with atomic_write(folder / CONFIG) as file:
        file.write(OmegaConf.to_yaml(OmegaConf.create(sections)).encode())


def _absolute(text: str) -> str:
    path = Path(text).expanduser()
    return os.path.abspath(path) if "/" in text and path.exists() else text


def load_saved(folder: str | Path, device: str | torch.device = "cpu") -> Loaded:
    """The model that a training left in `folder`, in evaluation mode, with its processors.

    Raises:
        ValueError: a file is missing, damaged or of another version, or one that the config names is gone.
    """
    folder = Path(folder).expanduser().resolve()
    remedy = f"Give the run.output_dir of a training, which holds {WEIGHTS} and {CONFIG}."
    with reading(folder / CONFIG, "config of a model", remedy):
        try:
            config = loaded(folder / CONFIG)
        except yaml.YAMLError as error:
            raise ValueError(f"{error}") from error
        check_references(OmegaConf.to_container(config), CONFIG)
    check_format(folder / CONFIG, "model", plain_config(config), remedy)
    model_cls = registry.get_model_class(config.model.arch)
    weights = {"load_finetuned": True, "finetuned": str(folder / WEIGHTS)}
    model = model_cls.from_config(OmegaConf.merge(config.model, weights))
    return Loaded(model.float().to(device).eval(), *load_preprocess(config.preprocess))
