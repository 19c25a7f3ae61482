"""Reading a test set of several matches, and its figures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from lavis_mafa.common.formats import header
from lavis_mafa.data.dataset import RetrievalDataset
from lavis_mafa.data.records import RecordTable
from lavis_mafa.evaluation.relevance import Relevance, figures
from lavis_mafa.evaluation.test_set import read_test_set

ROWS = [("a.jpg", ["a dog runs", "an animal"]), ("b.jpg", ["a cat"]), ("c.jpg", ["a red car", "An Animal"])]


@pytest.fixture
def dataset() -> RetrievalDataset:
    columns = {"image": [image for image, _ in ROWS], "caption": [captions for _, captions in ROWS]}
    table = RecordTable.from_rows(pa.table(columns), dataset="test")
    return RetrievalDataset(table, lambda number: None, None, str.lower)  # type: ignore[arg-type, return-value]


def write(path: Path, images: dict[str, list[str]], **more: Any) -> Path:
    listed = {
        image: [{"caption": caption, "by": "people"} for caption in captions] for image, captions in images.items()
    }
    path.write_text(json.dumps({**header("test_set"), "images": listed, "captions": {}, **more}))
    return path


def test_matches_are_found_by_path_and_text(dataset: RetrievalDataset, tmp_path: Path) -> None:
    found = read_test_set(write(tmp_path / "set.json", {"./b.jpg": ["AN  animal"], "c.jpg": []}), dataset)
    table = found.matches(np.arange(3)[:, None], np.arange(5)[None, :])
    assert np.argwhere(table).tolist() == [[1, 1], [1, 4]]  # image b with either row of "an animal"


def test_figures_by_hand(dataset: RetrievalDataset, tmp_path: Path) -> None:
    """Image b's best captions are an animal's two rows, then its own: R@1 by annotation is 0, R-precision is whole."""
    test_set = read_test_set(write(tmp_path / "set.json", {"b.jpg": ["an animal"]}), dataset)
    sim = np.array([[9.0, 8, 1, 2, 3], [1, 9, 7, 2, 8], [1, 2, 3, 9, 8]])
    recalls, at_r = figures(
        lambda images: sim[images.start : images.stop],
        lambda texts: sim.T[texts.start : texts.stop],
        Relevance(dataset, test_set),
    )
    assert recalls["annotation"]["text"]["r1"] == pytest.approx(200 / 3)
    assert recalls["test_set"]["text"]["r1"] == 100
    assert at_r["test_set"]["text"]["r_precision"] == pytest.approx(100)
    assert set(recalls) == {"annotation", "test_set"}


@pytest.mark.parametrize(
    ("images", "more", "message"),
    [
        ({"z.jpg": ["a cat"]}, {}, "names 'z.jpg', which is not in the split"),
        ({"a.jpg": ["a boat"]}, {}, "has the caption 'a boat', which the split lacks"),
        ({}, {"format": "lavis_mafa plan 2"}, "written by lavis_mafa"),
    ],
)
def test_a_file_of_other_data_is_refused(
    dataset: RetrievalDataset, tmp_path: Path, images: Any, more: Any, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        read_test_set(write(tmp_path / "set.json", images, **more), dataset)


def test_what_is_no_test_set_is_refused(dataset: RetrievalDataset, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"none\.json is missing.*--test-set"):
        read_test_set(tmp_path / "none.json", dataset)
    (tmp_path / "list.json").write_text("[1, 2")
    with pytest.raises(ValueError, match="not a readable test set"):
        read_test_set(tmp_path / "list.json", dataset)
