"""Image files of CSV data, opened as data/images.py opens them. Tested in tests/openclip/test_images.py."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.datasets import ImageFolder

from lavis_mafa.common.loading import WatchedLoader
from lavis_mafa.core.batch import Batch
from lavis_mafa.core.scorer import View
from lavis_mafa.data.images import BadImageError, image_file, open_file, relative_path, size_and_time
from lavis_mafa.data.rules import FileRules
from lavis_mafa.openclip_train.batches import Pair, paired
from lavis_mafa.openclip_train.csv_table import read_pairs


@dataclass(frozen=True)
class CsvImages:
    """The folders that the images of CSV data may lie in, by default the working folder; relative paths start there.

    allow_symlinks: a link below such a folder may lead out of it.
    """

    folders: Sequence[str] = field(default_factory=lambda: [os.getcwd()])
    allow_symlinks: bool = False

    def open(self, path: str) -> Image.Image:
        """The image of a CSV row in RGB, whole.

        Raises:
            ValueError: a path, or a link on it, that leads out of the folders.
            BadImageError: a file that is missing, truncated, too large or no image; the message names it.
        """
        try:
            file = image_file(self.folders, path, FileRules(allow_symlinks=self.allow_symlinks))
        except BadImageError:
            raise
        except ValueError as error:
            option = "--mafa-images FOLDER…" if _leads_out(self.folders, path) else "--mafa-allow-symlinks"
            raise ValueError(f"{error} (by {option})") from error
        return open_file(file)

    def image_folder(self, root: str, **more: Any) -> ImageFolder:
        """torchvision's, whose images lie below its own root, links followed as here."""
        place = os.path.abspath(os.path.expanduser(root))
        return ImageFolder(place, loader=CsvImages([place], self.allow_symlinks).open, **more)

    def check(self, source: str, paths: Sequence[str]) -> None:
        """Raises ValueError: a path of the file `source` that leads out of the folders, by its row."""
        for row, path in enumerate(paths):
            if _leads_out(self.folders, path):
                raise ValueError(
                    f"{source}, row {row + 1}: image path {path!r} leads outside {', '.join(self.folders)}: give the "
                    "folder that the images are in, --mafa-images FOLDER"
                )

    def contents(self, paths: Iterable[object]) -> Iterator[object]:
        """Of every image what a cache is keyed by: its absolute path, size and time."""
        for path in map(str, paths):
            try:
                file = image_file(self.folders, path, FileRules(allow_symlinks=True))
            except ValueError:  # opening it says so
                yield path, None
            else:
                yield os.path.abspath(file), size_and_time(file)


def _leads_out(folders: Sequence[str], path: str) -> bool:
    try:
        relative_path(folders, path)
    except ValueError:
        return True
    return False


def checked_rows(csv_dataset: type[Any], images: CsvImages) -> type[Any]:
    """open_clip_train's CsvDataset with its file read by `read_pairs`, and its images opened by `images`."""

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
            image = self.transforms(images.open(str(self.images[row])))
            return paired(image, self.tokenize([str(self.captions[row])])[0])

    return CheckedRows


class RowBatch(Batch, total=False):
    """What a judge is asked about. row: of CSV data."""

    row: Tensor


class RowViews:
    """Images of rows, opened and prepared when they are asked for: of a batch, ECM needs a part."""

    def __init__(self, paths: Sequence[str], prepare: View, device: torch.device, images: CsvImages) -> None:
        self.paths, self.prepare, self.device, self.images = paths, prepare, device, images

    def __getitem__(self, position_K: Tensor) -> Tensor:
        """(K, 3, h, w) of the rows at these positions."""
        views = [self.prepare(self.images.open(self.paths[position])) for position in position_K.tolist()]
        return torch.stack(views).to(self.device)


class Images(Dataset[Tensor]):
    """Image files as a network sees them."""

    def __init__(self, paths: Sequence[object], preprocess: View, images: CsvImages) -> None:
        self.paths, self.preprocess, self.images = paths, preprocess, images

    def batches(self, size: int, workers: int) -> WatchedLoader[Tensor]:
        """(size, 3, h, w) of all, in their order."""
        return WatchedLoader(self, batch_size=size, num_workers=workers, name_of=lambda row: str(self.paths[row]))

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, row: int) -> Tensor:
        return self.preprocess(self.images.open(str(self.paths[row])))
