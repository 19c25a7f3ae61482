"""The captions that are known of each image: what a judge of captions compares a candidate with.

Tested in tests/scorers/test_captions.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from lavis_mafa.data.records import RecordTable, TextProcessor

Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class OwnCaptions:
    """image_id_N: sorted, each once; image n has captions[offsets[n]:offsets[n+1]], in their order, raw.

    text_processor: captions that it makes equal are one text (RecordTable.read_through).
    """

    image_id_N: Ints
    offsets: Ints
    captions: pa.Array
    text_processor: TextProcessor = str

    @classmethod
    def of(
        cls, image_id_C: Ints, captions: pa.Array | Sequence[str], text_processor: TextProcessor = str
    ) -> OwnCaptions:
        """From one row a caption; several records of one image are one image."""
        captions = captions if isinstance(captions, pa.Array) else pa.array(captions, pa.large_string())
        order_C = np.argsort(image_id_C, kind="stable")
        image_id_N, first_N = np.unique(image_id_C[order_C], return_index=True)
        offsets = np.append(first_N, len(image_id_C))
        return cls(image_id_N, offsets, captions.take(pa.array(order_C)), text_processor)

    @classmethod
    def of_table(cls, table: RecordTable) -> OwnCaptions:
        """Those of a data set."""
        return cls.of(table.image_id[table.record_of_caption], table.captions, table.text_processor)

    def __getitem__(self, image_id: int) -> list[str]:
        """The captions of an image.

        Raises KeyError: an image that the data set lacks.
        """
        at = int(np.searchsorted(self.image_id_N, image_id))
        if at == len(self.image_id_N) or self.image_id_N[at] != image_id:
            raise KeyError(f"image_id {image_id} is not in the data set that the judge was built for")
        found: list[str] = self.captions[int(self.offsets[at]) : int(self.offsets[at + 1])].to_pylist()
        return found

    @property
    def most(self) -> int:
        """The largest number of captions that an image has."""
        return int(np.diff(self.offsets).max(initial=0))
