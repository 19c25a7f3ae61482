"""What a model of open_clip is, by its name: one of its list, `hf-hub:ORG/NAME`, or `local-dir:FOLDER`.

Tested in tests/openclip/test_names.py.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TypedDict

import open_clip
from open_clip.factory import parse_model_name
from open_clip.pretrained import download_pretrained_from_hf

CONFIG = "open_clip_config.json"


class VisionConfig(TypedDict, total=False):
    """What the project reads of a model's `vision_cfg`."""

    image_size: int | list[int]


class ModelConfig(TypedDict):
    """What the project reads of open_clip's `model_cfg`."""

    embed_dim: int
    vision_cfg: VisionConfig


class _Published(TypedDict, total=False):
    model_cfg: ModelConfig
    preprocess_cfg: dict[str, object]


def brings_weights(name: str) -> bool:
    """Whether the name is of a hub repository or a folder, which hold config and weights together."""
    return parse_model_name(name)[0] is not None


def model_config(name: str, key: str) -> ModelConfig:
    """The architecture of a model.

    Args:
        name: as open_clip takes it.
        key: the setting that holds the name, for errors.

    Returns:
        open_clip's `model_cfg`: `embed_dim`, `vision_cfg`, `text_cfg`, …

    Raises:
        ValueError: an unknown name (the closest valid one is named), or a folder or repository without a config.
    """
    if brings_weights(name):
        return _published(name, key)["model_cfg"]
    found: ModelConfig | None = open_clip.get_model_config(name.replace("/", "-"))
    if found is None:
        near = difflib.get_close_matches(name, open_clip.list_models(), n=1, cutoff=0.0)[0]
        raise ValueError(f"{key}: open_clip has no model {name!r}; did you mean {near}?")
    return found


def preprocessing(name: str, key: str) -> Mapping[str, object]:
    """How a hub repository or a folder prepares images: mean, std, interpolation, … Errors: those of model_config."""
    return _published(name, key).get("preprocess_cfg", {})


def _published(name: str, key: str) -> _Published:
    schema, place = parse_model_name(name)
    try:
        file = Path(place, CONFIG) if schema == "local-dir" else Path(download_pretrained_from_hf(place, CONFIG))
        found: _Published = json.loads(file.expanduser().read_text(encoding="utf-8"))
    except (OSError, ValueError, RuntimeError) as error:
        raise ValueError(f"{key}: {name} has no readable {CONFIG}: {' '.join(str(error).split())}") from error
    if "model_cfg" not in found:
        raise ValueError(f"{key}: the {CONFIG} of {name} has no model_cfg; save the model as open_clip does")
    return found
