"""Images and distinct captions of a data set, and which belong together.

Symbols: N records, T distinct texts, P own pairs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from lavis_mafa.data.records import RecordTable

Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Corpus:
    """Every caption counts once, however many images carry it: no candidate is a copy of an own caption.

    text_row_T: the first caption row of each text; own_record_P, own_text_P: own pairs, sorted, each once.
    """

    table: RecordTable
    text_row_T: Ints
    own_record_P: Ints
    own_text_P: Ints

    @classmethod
    def of(cls, table: RecordTable) -> Corpus:
        _, first_T, text_C = np.unique(table.text_id, return_index=True, return_inverse=True)
        order = np.argsort(first_T)  # texts in the order of the data, not of their hashes
        place = np.empty_like(order)
        place[order] = np.arange(len(order))
        record_P, text_P = unpacked(np.unique(packed(table.record_of_caption, place[text_C.ravel()])))
        return cls(table, first_T[order].astype(np.int64), record_P, text_P)

    @property
    def n_images(self) -> int:
        return self.table.n_records

    @property
    def n_texts(self) -> int:
        return len(self.text_row_T)

    def texts(self, start: int, stop: int) -> list[str]:
        """Raw captions of the texts start … stop."""
        captions: list[str] = self.table.captions.take(pa.array(self.text_row_T[start:stop])).to_pylist()
        return captions

    def rows(self, record_K: Ints, text_K: Ints, **columns: object) -> pa.Table:
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


def packed(record_K: Ints, text_K: Ints) -> Ints:
    """One int64 a pair, in the order of record, then text."""
    return np.asarray(record_K, np.int64) << 32 | np.asarray(text_K, np.int64)


def unpacked(key_K: Ints) -> tuple[Ints, Ints]:
    return key_K >> 32, key_K & 0xFFFFFFFF
