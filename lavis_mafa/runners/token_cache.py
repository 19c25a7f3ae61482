"""What frozen encoders say of a data set, computed once and kept on disk: nothing is augmented, so nothing changes."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import torch
from torch import Tensor

from lavis_mafa.common.cached_rows import cached_rows
from lavis_mafa.common.loading import WatchedLoader
from lavis_mafa.common.tensors import tensor_parts
from lavis_mafa.core.scorer import PairScorer
from lavis_mafa.data.dataset import PairDataset, RecordImages, RetrievalDataset, image_named
from lavis_mafa.data.images import content_of
from lavis_mafa.encoders.text_encoder import KEPT_TEXTS, TextEncoder
from lavis_mafa.models.protocols import Student
from lavis_mafa.scorers.calibrated import Calibrated
from lavis_mafa.scorers.captions import CaptionScorer
from lavis_mafa.scorers.composite import Composite

TEXTS = 4096  # of a part


def attach_tokens(
    model: Student, dataset: RecordImages, folder: Path, device: torch.device, workers: int, batch_size: int = 64
) -> None:
    """Give `dataset` the tower's tokens (N, L, V), float16 on disk: its samples carry `image_tokens`, not `image`.

    Raises:
        ValueError: the tower is trained, or the images are augmented: then there is nothing fixed to keep.
    """
    if not model.tower_is_frozen:
        raise ValueError("run.cache_tokens needs a frozen tower; set model.freeze_vit: true or run.cache_tokens: false")
    if getattr(dataset, "augmented", False):
        raise ValueError(
            "run.cache_tokens keeps one view of each image; use an eval processor for training, or set it to false"
        )
    tower = model.visual_encoder.to(device)  # frozen, so LAVIS keeps it in eval mode
    view = repr(getattr(dataset.vis_processor, "transform", dataset.vis_processor))
    images = content_of(dataset.open_image)
    content = chain(tensor_parts(tower.state_dict()), (view, dataset.table.fingerprint), images)
    about = f"{type(tower).__name__}, {len(dataset):,} images, the first {dataset.table.image(0)}"

    def tokens() -> Iterator[Tensor]:
        loader = WatchedLoader(dataset, batch_size=batch_size, num_workers=workers, name_of=image_named(dataset))
        for batch in loader:
            yield model.vision_tokens({"image": batch["image"].to(device)})

    dataset.tokens = cached_rows(folder, "tokens", content, len(dataset), tokens, "set run.cache_tokens: false", about)


def attach_texts(read: TextEncoder, dataset: PairDataset | RetrievalDataset, folder: Path) -> None:
    """Let a frozen sentence encoder know every caption of `dataset` as the model reads it, from float16 on disk.

    Raises:
        ValueError: more captions than are kept in memory.
    """
    process, captions = dataset.text_processor, dataset.table.captions.to_pylist()
    texts = list(dict.fromkeys(process(caption) for caption in captions))
    if len(texts) > KEPT_TEXTS:
        raise ValueError(
            f"{len(texts):,} different captions are more than the {KEPT_TEXTS:,} that mafa_dual keeps in memory; train "
            "on a part of them, or train mafa_openclip"
        )
    _know(read, texts, folder, "choose another text_model")


def attach_judge_texts(judge: PairScorer | None, folder: Path) -> None:
    """Let a judge of captions encode all that it knows, so that no step waits for it; members of others, too.

    Where there are more captions than are kept in memory, it encodes them as they come.
    """
    for scorer in caption_scorers(judge):
        texts = list(dict.fromkeys(scorer.own.captions.to_pylist())) if scorer.own else []
        if len(texts) > KEPT_TEXTS:
            kept = f"{len(texts):,} different captions are more than the {KEPT_TEXTS:,} that a judge keeps in memory"
            logging.warning("%s: it encodes them during the steps", kept)
        elif texts:
            _know(scorer.encode, texts, folder, "choose another encoder in run.con_d")


def caption_scorers(judge: PairScorer | None) -> Iterator[CaptionScorer]:
    """The judges of captions in a judge: itself, its members, or the one it calibrates."""
    if isinstance(judge, CaptionScorer):
        yield judge
    parts = judge.members if isinstance(judge, Composite) else [judge.inner] if isinstance(judge, Calibrated) else []
    for part in parts:
        yield from caption_scorers(part)


def _know(read: TextEncoder, texts: list[str], folder: Path, remedy: str) -> None:
    """Computed in the order of `texts`: a resumed run, whatever batches it begins with, reads the same numbers."""

    def vectors() -> Iterator[Tensor]:
        for start in range(0, len(texts), TEXTS):
            yield torch.from_numpy(read.encoded(texts[start : start + TEXTS]))

    about = f"{read.name}, {len(texts):,} captions, the first {texts[0][:40]!r}"
    read.know(texts, cached_rows(folder, "texts", (read.fingerprint, *texts), len(texts), vectors, remedy, about))
