"""A bi-encoder's features of every row of CSV data, computed once. Tested in tests/openclip/test_train.py."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
import open_clip
import torch
from numpy.typing import NDArray
from torch import Tensor

from lavis_mafa.common.cached_rows import cached_rows
from lavis_mafa.core.scorer import View
from lavis_mafa.data.images import size_and_time
from lavis_mafa.openclip.judges import OpenClipEncoder
from lavis_mafa.openclip_train.csv_feed import CsvRows
from lavis_mafa.openclip_train.images import CsvImages, Images, RowBatch

BATCH = 64


class FeatureTable:
    """The features of a frozen open_clip model for each image and each caption, float16 on disk, memory-mapped.

    The model sees every image unaugmented, in its own preprocessing, and tokens of its own tokenizer; so training pays
    nothing for it. As a judge it gives what a loss with a BiEncoderJudge asks for.
    """

    view = None  # it has seen the images

    def __init__(self, image_NG: NDArray[np.float16], text_NG: NDArray[np.float16]) -> None:
        self.image_NG, self.text_NG = image_NG, text_NG

    def __call__(self, samples: RowBatch, image_features_nD: Tensor, text_features_nD: Tensor) -> dict[str, Tensor]:
        """{"judge_image_features", "judge_text_features"}: (n, G) float32; samples: `row`, (n,)."""
        tables, row_n = {"judge_image_features": self.image_NG, "judge_text_features": self.text_NG}, samples["row"]
        device = image_features_nD.device
        return {name: torch.from_numpy(table[row_n.numpy()]).float().to(device) for name, table in tables.items()}


def feature_table(
    model: str,
    pretrained: str,
    dataset: CsvRows,
    folder: Path,
    device: torch.device,
    workers: int = 0,
    opened: CsvImages | None = None,
) -> FeatureTable:
    """The table in `folder`, computed where it is not there yet; dataset: open_clip_train's CsvDataset."""
    opened = opened or CsvImages()
    weights = model, pretrained, size_and_time(Path(pretrained))  # None for a tag, whose weights do not change
    n, about = len(dataset), f"{model} {pretrained}, {len(dataset):,} rows"

    @cache
    def network() -> tuple[OpenClipEncoder, View]:
        net, _, preprocess = open_clip.create_model_and_transforms(model, pretrained, device=device)
        return OpenClipEncoder(net), preprocess

    def images() -> Iterator[Tensor]:
        encode, preprocess = network()
        for batch in Images(dataset.images, preprocess, opened).batches(BATCH, workers):
            yield encode.image(batch.to(device))

    def texts() -> Iterator[Tensor]:
        encode, tokenizer = network()[0], open_clip.get_tokenizer(model)
        for low in range(0, n, BATCH):
            yield encode.text(tokenizer([str(caption) for caption in dataset.captions[low : low + BATCH]]).to(device))

    remedy = "take another --mafa-bi-encoder"
    return FeatureTable(
        cached_rows(folder, "bi_encoder_image", (*weights, *opened.contents(dataset.images)), n, images, remedy, about),
        cached_rows(folder, "bi_encoder_text", (*weights, *map(str, dataset.captions)), n, texts, remedy, about),
    )
