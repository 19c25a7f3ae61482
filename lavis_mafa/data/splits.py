"""What a run needs of the data that it trains on, whatever the task."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lavis_mafa.data.dataset import TruthFunction, VisProcessor


class TrainTable(Protocol):
    """What plans are made of: the records, the image (N,) of each, and a hash of the content."""

    @property
    def n_records(self) -> int: ...

    @property
    def image_id(self) -> NDArray[np.int64]: ...

    @property
    def fingerprint(self) -> str: ...


@runtime_checkable
class OpensImages(Protocol):
    """A split that opens the image of its sample i, RGB."""

    def open_image(self, index: int, /) -> Image.Image: ...


class TrainSplit(OpensImages, Protocol):
    """Samples by record, drawn anew each epoch. `truth`: which pairs match; None where nobody knows."""

    vis_processor: VisProcessor
    truth: TruthFunction | None

    @property
    def table(self) -> TrainTable: ...

    @property
    def bad_records(self) -> Sequence[int]:
        """The records whose image could not be read so far; a resumed run sets those that it knew."""
        ...

    @bad_records.setter
    def bad_records(self, records: list[int], /) -> None: ...

    def set_epoch(self, epoch: int) -> None: ...

    def __len__(self) -> int: ...
