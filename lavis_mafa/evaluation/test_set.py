"""A test set with several matches a query, as `mine --test-set` writes it, for any data.

What ECCV Caption (arXiv 2204.03359) is for COCO: matches that the annotation lacks, so that a model that finds them is
not counted wrong. Tested in tests/evaluation/test_test_set.py.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lavis_mafa.common.artifacts import reading
from lavis_mafa.common.formats import check_format
from lavis_mafa.data.dataset import RetrievalDataset
from lavis_mafa.data.identity import clean_path

REMEDY = "`python -m lavis_mafa.mine --test-set` writes test_set.json."
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class TestSet:
    """Which captions match which images of a split: image · captions + caption row, sorted. The annotation is not in
    it."""

    __test__ = False  # no tests, though pytest reads its name so

    key_M: Ints
    captions: int

    def matches(self, image: NDArray[np.int64], caption: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether they match, broadcast."""
        found: NDArray[np.bool_] = np.isin(image * self.captions + caption, self.key_M)
        return found


def read_test_set(file: str | Path, dataset: RetrievalDataset) -> TestSet:
    """The matches of a file, by the paths of its images and the texts of its captions.

    Raises:
        ValueError: no such file, none of this kind, or an image or a caption that the split has not.
    """
    file = Path(file).expanduser()
    with reading(file, "test set", REMEDY):
        found = json.loads(file.read_text(encoding="utf-8"))
        check_format(file, "test_set", found, REMEDY)
        listed = found["images"]
    record_of = {clean_path(path): record for record, path in enumerate(dataset.image)}
    rows_of: dict[int, list[int]] = {}
    for row, text in enumerate(dataset.text_id.tolist()):
        rows_of.setdefault(text, []).append(row)
    keys = []
    for image, matches in listed.items():
        record = record_of.get(clean_path(image))
        if record is None:
            raise ValueError(f"run.test_set: {file} names {image!r}, which is not in the split: evaluate that one")
        for match in matches:
            rows = rows_of.get(dataset.table.text_id_of(match["caption"]))
            if rows is None:
                raise ValueError(f"run.test_set: {file} has the caption {match['caption']!r}, which the split lacks")
            keys += [record * len(dataset.captions) + row for row in rows]
    return TestSet(np.unique(np.array(keys, dtype=np.int64)), len(dataset.captions))
