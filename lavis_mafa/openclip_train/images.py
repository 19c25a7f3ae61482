"""Image files as a network sees them. Tested in tests/openclip/test_judge.py."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset


class RowViews:
    """Images of rows, opened and prepared when they are asked for: of a batch, ECM needs a part."""

    def __init__(self, paths: Sequence[str], prepare: Callable[[Any], Tensor], device: torch.device) -> None:
        self.paths, self.prepare, self.device = paths, prepare, device

    def __getitem__(self, position_K: Tensor) -> Tensor:
        """(K, 3, h, w) of the rows at these positions."""
        return torch.stack([self._view(self.paths[position]) for position in position_K.tolist()]).to(self.device)

    def _view(self, path: str) -> Tensor:
        with Image.open(path) as image:
            return self.prepare(image.convert("RGB"))


class Images(Dataset[Tensor]):
    """Image files as a network sees them."""

    def __init__(self, paths: list[str], preprocess: Any) -> None:
        self.paths, self.preprocess = paths, preprocess

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, row: int) -> Tensor:
        with Image.open(str(self.paths[row])) as image:
            prepared: Tensor = self.preprocess(image.convert("RGB"))
        return prepared
