"""Several record tables as one, which can be planned. Each part keeps its ids and the root of its images."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image

from lavis_mafa.data.identity import check_collisions
from lavis_mafa.data.images import content_of
from lavis_mafa.data.records import RecordTable

Ints = NDArray[np.int64]


def mixed_table(tables: Sequence[RecordTable]) -> RecordTable:
    """The records of all tables, in order. ValueError if an image stands in two parts under one id."""
    ids = np.concatenate([table.image_id for table in tables])
    part = np.repeat(np.arange(len(tables)), [table.n_records for table in tables])
    images = _joined([table.images for table in tables])
    check_collisions(ids, lambda at: f"{images[at].as_py()} of part {part[at]}")
    starts = np.cumsum([0, *(table.n_captions for table in tables)])
    offsets = [table.offsets[:-1] + start for table, start in zip(tables, starts[:-1], strict=True)]
    return RecordTable(
        images=images,
        image_id=ids,
        annotated_id=_joined([table.annotated_id for table in tables]),
        offsets=np.concatenate([*offsets, starts[-1:]]).astype(np.int64),
        captions=_joined([table.captions for table in tables]),
        text_id=np.concatenate([table.text_id for table in tables]),
    )


def _joined(parts: Sequence[pa.Array]) -> pa.Array:
    return pa.chunked_array(parts).combine_chunks()


@dataclass(frozen=True)
class MixedImages:
    """record → image, each part by its own opener. first: (parts,) the first record of every part, ascending from 0."""

    openers: tuple[Callable[[int], Image.Image], ...]
    first: tuple[int, ...]

    def __call__(self, record: int) -> Image.Image:
        part = int(np.searchsorted(self.first, record, side="right")) - 1
        return self.openers[part](record - self.first[part])

    def content(self) -> Iterator[object]:
        """That of every part, see images.content_of."""
        return chain.from_iterable(map(content_of, self.openers))
