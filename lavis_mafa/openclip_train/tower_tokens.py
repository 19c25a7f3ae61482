"""Tower tokens of every image of CSV data, for a matching network that judges its pairs.

Tested in tests/openclip/test_judge.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from lavis_mafa.common.cached_rows import cached_rows
from lavis_mafa.core.scorer import PairScorer, TowerScorer
from lavis_mafa.openclip_train.feature_table import BATCH
from lavis_mafa.openclip_train.images import CsvImages, Images
from lavis_mafa.scorers.calibrated import Calibrated


class TowerTokens:
    """The tokens of a frozen tower for each image, computed once: (N, L, V) float16 on disk, memory-mapped."""

    def __init__(self, tokens_NLV: NDArray[np.float16], image_of_row: NDArray[np.int64]) -> None:
        self.tokens_NLV, self.image_of_row = tokens_NLV, image_of_row

    def of(self, row_n: Tensor, device: torch.device) -> RowTokens:
        return RowTokens(self, row_n, device)


class RowTokens:
    """Tokens of the rows of a batch; only those that are asked for are read."""

    def __init__(self, table: TowerTokens, row_n: Tensor, device: torch.device) -> None:
        self.table, self.row_n, self.device = table, row_n, device

    def __getitem__(self, position_K: Tensor) -> Tensor:
        """(K, L, V) float32."""
        rows = self.table.image_of_row[self.row_n[position_K.cpu()].numpy()]
        return torch.from_numpy(self.table.tokens_NLV[rows]).to(self.device).float()


def tower_tokens(
    scorer: PairScorer,
    paths: list[str],
    folder: Path,
    device: torch.device,
    workers: int = 0,
    opened: CsvImages | None = None,
) -> TowerTokens:
    """The table in `folder`, computed where it is not there yet.

    scorer: an ItmScorer whose `model` has a frozen `visual_encoder`. paths: the image of every row, kept once however
    many rows have it. Raises ValueError: a judge without a tower.
    """
    scorer = scorer.inner if isinstance(scorer, Calibrated) else scorer
    if not isinstance(scorer, TowerScorer):
        raise ValueError("--mafa-con-d-cache-tokens keeps what a tower says, and this judge has none: leave it out")
    image_of_row, images = pd.factorize(np.array(paths, dtype=object))
    view = repr(getattr(scorer.view, "transform", scorer.view))
    opened = opened or CsvImages()
    content = (scorer.fingerprint, view, *opened.contents(images.tolist()))

    def tokens() -> Iterator[Tensor]:
        for batch in Images(images.tolist(), scorer.view, opened).batches(BATCH, workers):
            yield scorer.model.visual_encoder(batch.to(device))

    remedy = "leave out --mafa-con-d-cache-tokens"
    about = f"the judge's tower, {len(images):,} images"
    return TowerTokens(cached_rows(folder, "con_d_tokens", content, len(images), tokens, remedy, about), image_of_row)
