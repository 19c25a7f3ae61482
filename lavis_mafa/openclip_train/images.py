"""Image files of CSV data, opened as data/images.py opens them. Tested in tests/openclip/test_images.py."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from lavis_mafa.core.batch import Batch
from lavis_mafa.core.scorer import View
from lavis_mafa.data.images import open_file, open_image, size_and_time
from lavis_mafa.data.rules import FileRules
from lavis_mafa.openclip_train.batches import Pair, paired
from lavis_mafa.openclip_train.csv_table import read_pairs


def open_csv_image(path: str) -> Image.Image:
    """The image of a CSV row in RGB, whole: a relative path is read below the working folder, an absolute one as it is.

    Raises:
        ValueError: a relative path that leads out of the working folder.
        BadImageError: a file that is missing, truncated, too large or no image; the message names it.
    """
    if Path(path).is_absolute():  # as open_clip's CSV files mostly have them
        return open_file(path)
    return open_image(Path.cwd(), path, FileRules(allow_symlinks=True))  # an absolute path may lead anywhere, too


def image_contents(paths: Iterable[object]) -> Iterator[object]:
    """Of every CSV image what a cache is keyed by: its absolute path, size and time."""
    return ((os.path.abspath(str(path)), size_and_time(Path(str(path)))) for path in paths)


def checked_rows(csv_dataset: type[Any]) -> type[Any]:
    """open_clip_train's CsvDataset with its file read by `read_pairs` and its images opened by `open_csv_image`."""

    class CheckedRows(csv_dataset):  # type: ignore[misc]
        def __init__(
            self,
            path: str,
            transforms: View,
            img_key: str,
            caption_key: str,
            sep: str = "\t",
            tokenizer: Any = None,
            variable_text: bool = False,
        ) -> None:
            assert not variable_text, "check_data refuses it"
            self.images, self.captions = read_pairs(path, img_key, caption_key, sep)
            self.transforms, self.tokenize = transforms, tokenizer

        def __getitem__(self, row: int) -> Pair:
            image = self.transforms(open_csv_image(str(self.images[row])))
            return paired(image, self.tokenize([str(self.captions[row])])[0])

    return CheckedRows


class RowBatch(Batch, total=False):
    """What a judge is asked about. row: of CSV data."""

    row: Tensor


class RowViews:
    """Images of rows, opened and prepared when they are asked for: of a batch, ECM needs a part."""

    def __init__(self, paths: Sequence[str], prepare: View, device: torch.device) -> None:
        self.paths, self.prepare, self.device = paths, prepare, device

    def __getitem__(self, position_K: Tensor) -> Tensor:
        """(K, 3, h, w) of the rows at these positions."""
        views = [self.prepare(open_csv_image(self.paths[position])) for position in position_K.tolist()]
        return torch.stack(views).to(self.device)


class Images(Dataset[Tensor]):
    """Image files as a network sees them."""

    def __init__(self, paths: Sequence[object], preprocess: View) -> None:
        self.paths, self.preprocess = paths, preprocess

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, row: int) -> Tensor:
        return self.preprocess(open_csv_image(str(self.paths[row])))
