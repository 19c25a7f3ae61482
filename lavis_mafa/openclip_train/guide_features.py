"""Guide features of every row of CSV data, computed once before training. Tested in tests/openclip/test_train.py."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils.data import DataLoader

from lavis_mafa.common.artifacts import save_rows
from lavis_mafa.common.hashing import digest
from lavis_mafa.openclip.guide import OpenClipEncoder
from lavis_mafa.openclip_train.images import Images

BATCH = 64


class GuideTable:
    """The features of a frozen open_clip model for each image and each caption, float16 on disk, memory-mapped.

    The guide sees every image unaugmented, in its own preprocessing, and tokens of its own tokenizer; so training pays
    nothing for it. As a judge it gives what a loss with a BiEncoderGuide asks for.
    """

    vis_processor = None  # it has seen the images

    def __init__(self, image_file: Path, text_file: Path) -> None:
        self.image_NG, self.text_NG = np.load(image_file, mmap_mode="r"), np.load(text_file, mmap_mode="r")

    def __call__(
        self, samples: Mapping[str, Any], image_features_nD: Tensor, text_features_nD: Tensor
    ) -> dict[str, Any]:
        """{"guide_image_features", "guide_text_features"}: (n, G) float32; samples: `row`, (n,)."""
        tables, row_n = {"guide_image_features": self.image_NG, "guide_text_features": self.text_NG}, samples["row"]
        device = image_features_nD.device
        return {name: torch.from_numpy(table[row_n.numpy()]).float().to(device) for name, table in tables.items()}


def guide_table(
    model: str, pretrained: str, dataset: Any, folder: Path, rank: int, world: int, device: Any
) -> GuideTable:
    """The table in `folder`, computed by rank 0 where it is not there yet; dataset: open_clip_train's CsvDataset."""
    name = digest(model, pretrained, dataset.images, dataset.captions)
    image_file, text_file = folder / f"guide_image_{name}.npy", folder / f"guide_text_{name}.npy"
    if rank == 0 and not text_file.exists():
        logging.info("Guide features of %d pairs by %s (%s)", len(dataset), model, pretrained)
        net, _, preprocess = open_clip.create_model_and_transforms(model, pretrained, device=device)
        encode, tokenizer = OpenClipEncoder(net), open_clip.get_tokenizer(model)
        images = DataLoader(Images(dataset.images, preprocess), batch_size=BATCH)
        image_parts = (encode.image(batch.to(device)).half().cpu().numpy() for batch in images)
        save_rows(image_file, len(dataset), image_parts, "take another --mafa-guide")
        captions = [str(caption) for caption in dataset.captions]
        batches = (tokenizer(captions[low : low + BATCH]) for low in range(0, len(captions), BATCH))
        text_parts = (encode.text(batch.to(device)).half().cpu().numpy() for batch in batches)
        save_rows(text_file, len(dataset), text_parts, "take another --mafa-guide")
    if world > 1:
        dist.barrier()
    return GuideTable(image_file, text_file)
