"""Images and distinct captions of a data set, and which belong together.

Symbols: N records, T distinct texts, P own pairs.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from lavis_mafa.data.records import RecordTable

Ints = NDArray[np.int64]
AnyInts = NDArray[np.integer]  # int32 or int64


@dataclass(frozen=True, eq=False)
class Corpus:
    """Every distinct caption counts once, however many images have it: no candidate repeats an own caption.

    text_row_T: the first caption row of each text; own_record_P, own_text_P: own pairs, sorted, each once;
    hidden_H: packed, the annotated pairs that are hidden from mining (known false negatives), sorted.
    """

    table: RecordTable
    text_row_T: Ints
    own_record_P: Ints
    own_text_P: Ints
    hidden_H: Ints

    @classmethod
    def of(cls, table: RecordTable, hide_siblings: bool = False) -> Corpus:
        """hide_siblings: of each image only the first caption is an own pair, the others belong to no image."""
        _, first_T, text_C = np.unique(table.text_id, return_index=True, return_inverse=True)
        order = np.argsort(first_T)  # texts in the order of the data, not of their hashes
        place = np.empty_like(order)
        place[order] = np.arange(len(order))
        annotated_C = packed(table.record_of_caption, place[text_C.ravel()])
        own = np.unique(annotated_C[table.offsets[:-1]] if hide_siblings else annotated_C)
        return cls(table, first_T[order].astype(np.int64), *unpacked(own), np.setdiff1d(annotated_C, own))

    @property
    def n_images(self) -> int:
        return self.table.n_records

    @property
    def n_texts(self) -> int:
        return len(self.text_row_T)

    @property
    def about(self) -> str:
        """For people: which data set it is."""
        return f"{self.n_images:,} images, the first {self.table.image(0)}"

    def texts(self, start: int, stop: int) -> list[str]:
        """Raw captions of the texts start … stop."""
        captions: list[str] = self.table.captions.take(pa.array(self.text_row_T[start:stop])).to_pylist()
        return captions

    def is_hidden(self, record_K: AnyInts, text_K: AnyInts) -> NDArray[np.bool_]:
        """(K,) whether a pair is annotated but was hidden from mining."""
        hidden: NDArray[np.bool_] = np.isin(packed(record_K, text_K), self.hidden_H)
        return hidden

    def places(self, captions: Iterable[str]) -> Ints:
        """The text number of each caption, by text_id; -1 if unknown."""
        id_T = self.table.text_id[self.text_row_T]
        order = np.argsort(id_T)
        wanted = np.fromiter((self.table.text_id_of(caption) for caption in captions), np.int64)
        at = order[np.searchsorted(id_T, wanted, sorter=order).clip(max=len(order) - 1)]
        return np.where(id_T[at] == wanted, at, -1)

    def rows(self, record_K: AnyInts, text_K: AnyInts, **columns: object) -> pa.Table:
        """Pairs for people: path, ids and caption, beside the columns given."""
        table, row_K = self.table, self.text_row_T[text_K]
        at_K = pa.array(record_K)
        return pa.table(
            {
                "image": table.images.take(at_K),
                "image_id": table.image_id[record_K],
                "annotated_id": table.annotated_id.take(at_K),
                "caption": table.captions.take(pa.array(row_K)),
                "text_id": table.text_id[row_K],
                **columns,
            }
        )


def packed(record_K: AnyInts, text_K: AnyInts) -> Ints:
    """One int64 a pair, in the order of record, then text."""
    return np.asarray(record_K, np.int64) << 32 | np.asarray(text_K, np.int64)


def unpacked(key_K: Ints) -> tuple[Ints, Ints]:
    """Records and texts (K,) of packed keys."""
    return key_K >> 32, key_K & 0xFFFFFFFF


def places(key_K: Ints, wanted_L: Ints) -> tuple[Ints, NDArray[np.bool_]]:
    """Positions of the keys among sorted ones, and whether they are there; K may be 0."""
    if not len(key_K):
        return np.zeros(len(wanted_L), np.int64), np.zeros(len(wanted_L), np.bool_)
    at_L = np.searchsorted(key_K, wanted_L).clip(max=len(key_K) - 1)
    return at_L, key_K[at_L] == wanted_L
