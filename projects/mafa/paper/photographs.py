"""The data set `photographs`: of images with several captions, each caption is trained on as if its image were its own.

Which pairs of photographs and captions match is unknown, except that the captions of one photograph do, and this is
hidden here. A pair of siblings is a false negative that the truth function knows; it knows no others.

    python projects/mafa/paper/photographs.py --cfg-path projects/mafa/paper/flickr8k.yaml    one run by hand
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import lavis_mafa.compat  # noqa: F401  before the first import of lavis

import numpy as np
import pyarrow as pa
from lavis.common.registry import registry
from numpy.typing import NDArray

from lavis_mafa.data.identity import image_id
from lavis_mafa.data.images import ImageFiles
from lavis_mafa.data.records import RecordTable
from lavis_mafa.datasets.pairs import ImageTextBuilder

Ints = NDArray[np.int64]


@registry.register_builder("photographs")
class PhotographsBuilder(ImageTextBuilder):
    """image_text, but a record of `train` is a caption with its image, under an image id that no other has."""

    DATASET_CONFIG_DICT = {"default": str(Path(__file__).with_name("photographs.yaml"))}

    def source(self, split: str, options: Mapping[str, Any]) -> tuple[RecordTable, Any, Any]:
        """As image_text gives it; of `train` the first `max_rows` rows of the annotation, and which are siblings."""
        if split != "train":
            return super().source(split, {**options, "max_rows": None})
        table, opener, _ = super().source(split, options)
        pairs = caption_records(table, options["name"])
        return (
            pairs,
            ImageFiles(opener.root, pairs.images, rules=opener.rules),
            partial(are_siblings, table.image_id[table.record_of_caption]),
        )


def caption_records(table: RecordTable, dataset: str) -> RecordTable:
    """(C records) every caption with its image: record and caption row are the caption row of `table`.

    Each has an image id of its own, though its file stands in several records: that is what hides the siblings.
    """
    images = table.images.take(pa.array(table.record_of_caption))
    rows = pa.table({"image": images, "caption": [[caption] for caption in table.captions.to_pylist()]})
    pairs = RecordTable.from_rows(rows, dataset, one_caption_a_record=True)
    keys = [f"{image}#{row}" for row, image in enumerate(images.to_pylist())]
    ids = np.array([image_id(dataset, key) for key in keys], np.int64)
    return replace(pairs, image_id=ids, annotated_id=pa.array(keys))


def are_siblings(image_id_C: Ints, record_K: Ints, row_K: Ints) -> NDArray[np.bool_]:
    """(K,) whether record and caption row are of one image; the two broadcast."""
    siblings: NDArray[np.bool_] = image_id_C[record_K] == image_id_C[row_K]
    return siblings


if __name__ == "__main__":
    from lavis_mafa.train import main

    main()
