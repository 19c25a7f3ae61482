"""MAFA for LAVIS: vision-language pre-training that manages its false negatives. Importing registers nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    import torch

    from lavis_mafa.api import find_connections as find_connections
    from lavis_mafa.api import score_pairs as score_pairs
    from lavis_mafa.models.saved import Loaded

__version__ = "0.2.0"


def register() -> None:
    """Hand our models, data sets, tasks and runners to LAVIS' registry; calling it again changes nothing."""
    from lavis_mafa.registration import register_all

    register_all()


def load(folder: str | Path, device: str | torch.device = "cpu") -> Loaded:
    """The model that a training left in its output folder, with its processors.

    Args:
        folder: run.output_dir of the training: model.safetensors and config.yaml.
        device: where the model goes, in float32 and evaluation mode.

    Returns:
        (model, vis_processors, text_processors), as LAVIS' load_model_and_preprocess gives them.

    Raises:
        ValueError: a file is missing, damaged or of another version.

    Example:
        model, vis, text = lavis_mafa.load("output/mafa/blip2_scenes")
        pixels = vis["eval"](PIL.Image.open("a.jpg"))[None]
    """
    register()
    from lavis_mafa.models.saved import load_saved

    return load_saved(folder, device)


def __getattr__(name: str) -> object:
    """`find_connections` and `score_pairs` (api.py), imported when they are first asked for."""
    if name in ("find_connections", "score_pairs"):
        from lavis_mafa import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
