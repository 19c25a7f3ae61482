"""Tokens of a frozen tower, computed once a record and kept on disk: nothing is augmented, so nothing changes."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from lavis_mafa.common.artifacts import save_rows
from lavis_mafa.common.hashing import digest_of
from lavis_mafa.models.trained import tensor_parts


def attach_tokens(
    model: Any, dataset: Any, folder: Path, device: torch.device, workers: int, batch_size: int = 64
) -> None:
    """Give `dataset` the tower's tokens (N, L, V), float16 on disk: its samples carry `image_tokens`, not `image`.

    Raises:
        ValueError: the tower is trained, or the images are augmented: then there is nothing fixed to keep.
    """
    if not model.tower_is_frozen:
        raise ValueError("run.cache_tokens needs a frozen tower; set model.freeze_vit: true or run.cache_tokens: false")
    if getattr(dataset, "augmented", False):
        raise ValueError(
            "run.cache_tokens keeps one view of an image; take an eval processor for training or set it to false"
        )
    path = folder / f"tokens_{_key(model.visual_encoder, dataset)}.npy"
    if not path.exists():
        _compute(model, dataset, path, device, workers, batch_size)
    dataset.tokens = np.load(path, mmap_mode="r")


def _compute(model: Any, dataset: Any, path: Path, device: torch.device, workers: int, batch_size: int) -> None:
    loader = DataLoader(dataset, batch_size=batch_size, num_workers=workers)
    model.visual_encoder.to(device)  # frozen, so LAVIS keeps it in eval mode
    batches = tqdm(loader, desc="tower tokens", unit="batch")
    with torch.no_grad():
        tokens = (model.vision_tokens({"image": batch["image"].to(device)}).half().cpu().numpy() for batch in batches)
        save_rows(path, len(dataset), tokens, "set run.cache_tokens: false")
    logging.info("tower tokens of %d images in %s (%.0f MB)", len(dataset), path, path.stat().st_size / 1e6)


def _key(tower: nn.Module, dataset: Any) -> str:
    """Weights, view and images: what the tokens depend on."""
    view = repr(getattr(dataset.vis_processor, "transform", dataset.vis_processor))
    return digest_of([*tensor_parts(tower.state_dict()), view, dataset.table.fingerprint])
