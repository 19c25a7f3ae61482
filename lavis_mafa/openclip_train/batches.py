"""The form of samples and batches: open_clip 3 has pairs (image, text), 4 dictionaries, which its tasks train on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

import open_clip
from torch import Tensor

HAS_TASKS = hasattr(open_clip, "create_task")  # 4.0 and later
Pair = tuple[Tensor, Tensor] | dict[str, Tensor]
T = TypeVar("T")


def paired(image: Tensor, text: Tensor) -> Pair:
    """A sample or a batch as this open_clip reads it."""
    return {"image": image, "text": text} if HAS_TASKS else (image, text)


def parts(pair: Mapping[str, T] | tuple[T, ...]) -> tuple[T, ...]:
    """Image, text and what goes along with them, of either form."""
    if not isinstance(pair, Mapping):
        return pair
    return tuple(value for name, value in pair.items() if not name.startswith("__"))  # webdataset's own notes
