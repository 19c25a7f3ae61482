"""Tables of judged pairs in every format: labels, votes, ratings, and what is wrong with them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest

from lavis_mafa.data.records import RecordTable
from lavis_mafa.evaluation.judged_pairs import judgement, read_judged_pairs


@pytest.fixture
def table() -> RecordTable:
    return RecordTable.from_rows(pa.table({"image": ["a.jpg", "b.jpg"], "caption": [["x"], ["y"]]}), "tests")


@pytest.mark.parametrize(
    ("row", "threshold", "expected"),
    [
        ({"label": 1}, None, (True, None)),
        ({"label": "0.5"}, None, (False, None)),
        ({"label": 0.5}, 0.5, (True, None)),
        ({"label": True}, None, (True, None)),
        ({"label": 1, "cf_yes": 3, "cf_no": 0}, None, (True, True)),
        ({"label": 1, "cf_yes": 2, "cf_no": 1}, None, (True, False)),
        ({"label": 0, "votes_yes": "0", "votes_no": "2", "expert": [1, 2]}, None, (False, True)),
        ({"label": 0, "expert": [1, 2, 3]}, None, (False, False)),
        ({"votes_yes": 2, "votes_no": 1}, None, (True, False)),
        ({"votes_yes": 1, "votes_no": 1}, None, (False, False)),
        ({"votes_yes": 2, "votes_no": 1}, 0.7, (False, False)),
        ({"expert": [3, 4, 4]}, None, (True, True)),
        ({"rating": 3.2}, 3, (True, None)),
        ({"agg_score": "2.9"}, 3, (False, None)),
        ({"ratings": [5, 4, 1]}, 3, (True, False)),
        ({"ratings": "[5, 4, 4]"}, 3, (True, True)),
        ({"rating": -1.5}, -2, (True, None)),
        ({"label": None, "rating": 4, "votes_yes": ""}, 3, (True, None)),
    ],
)
def test_what_people_say(row: dict[str, Any], threshold: float | None, expected: tuple[bool, bool | None]) -> None:
    assert judgement(row, threshold) == expected


@pytest.mark.parametrize(
    ("row", "threshold", "message"),
    [
        ({}, None, "lacks a judgement: label"),
        ({"label": 3}, None, "'label' must be from 0 .* call ratings `rating`"),
        ({"label": "yes"}, None, "'label' must be a number"),
        ({"label": float("nan")}, None, "'label' must be a number"),
        ({"label": 1}, 3, "run.judged_threshold is 3, but labels"),
        ({"votes_yes": 1.5}, None, "'votes_yes' must be a count"),
        ({"cf_yes": -1}, None, "'cf_yes' must be a count"),
        ({"rating": 4}, None, "ratings need run.judged_threshold"),
        ({"rating": "high"}, 3, "'rating' must be a number"),
        ({"ratings": "[1, 2"}, 3, "'ratings' must be a number or a list"),
        ({"expert": [5]}, None, "'expert' must be a list of grades from 1 to 4"),
    ],
)
def test_what_is_no_judgement_is_named(row: dict[str, Any], threshold: float | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        judgement(row, threshold)


WRITERS: dict[str, Callable[[pd.DataFrame, Path], None]] = {
    ".json": lambda rows, file: file.write_text(json.dumps(rows.to_dict("records"))),
    ".jsonl": lambda rows, file: rows.to_json(file, orient="records", lines=True),
    ".csv": lambda rows, file: rows.to_csv(file, index=False),
    ".tsv": lambda rows, file: rows.to_csv(file, index=False, sep="\t"),
    ".parquet": lambda rows, file: rows.to_parquet(file),
}


@pytest.mark.parametrize("suffix", WRITERS)
def test_every_format_gives_the_same_pairs(suffix: str, table: RecordTable, tmp_path: Path) -> None:
    rows = pd.DataFrame(
        {"file_name": ["./a.jpg", "b.jpg", "c.jpg"], "text": ["X", "Y", "Z"], "rating": [4.0, 1.0, 2.0]}
    )
    WRITERS[suffix](rows, file := tmp_path / f"judged{suffix}")
    judged = read_judged_pairs(file, table, threshold=3)
    assert (judged.record_I.tolist(), judged.captions, judged.outside) == ([0, 1], ["X", "Y"], 1)
    assert judged.pairs["label"].tolist() == [True, False]
    assert {name: mask.tolist() for name, mask in judged.selections().items()} == {"all": [True, True]}


def test_kinds_and_single_votes_make_the_selections(table: RecordTable, tmp_path: Path) -> None:
    rows = [
        {"image": "a.jpg", "caption": "X", "votes_yes": 3, "votes_no": 0},
        {"image": "b.jpg", "caption": "X", "votes_yes": 0, "votes_no": 2},
        {"image": "a.jpg", "caption": "Y", "votes_yes": 1, "votes_no": 2},
    ]
    (tmp_path / "j.json").write_text(json.dumps(rows))
    found = read_judged_pairs(tmp_path / "j.json", table).selections()
    assert {name: int(mask.sum()) for name, mask in found.items()} == {"all": 3, "unanimous": 2}
    rows[0]["kind"], rows[2]["kind"] = "false_negative", "hard_true_negative"
    (tmp_path / "j.json").write_text(json.dumps(rows))
    found = read_judged_pairs(tmp_path / "j.json", table).selections()
    assert {name: int(mask.sum()) for name, mask in found.items()} == {"all": 2, "any_kind": 3, "any_kind_unanimous": 2}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"image": "c.jpg", "caption": "x", "label": 1}], "has no pair about an image of the split"),
        ([{"image": "a.jpg", "caption": "x", "label": 1}], "there must be pairs that match and pairs that do not"),
        ([{"image": "a.jpg", "caption": ["x", "y"], "label": 1}], "row 1: a judgement is about one caption, not 2"),
        ([{"image": "a.jpg", "caption": "x"}], "row 1: lacks a judgement"),
        ([{"image": "a.jpg", "label": 1}], "row 1: no caption column"),
    ],
)
def test_a_table_that_says_nothing_is_refused(rows: Any, message: str, table: RecordTable, tmp_path: Path) -> None:
    (tmp_path / "j.json").write_text(json.dumps(rows))
    with pytest.raises(ValueError, match=message):
        read_judged_pairs(tmp_path / "j.json", table)
