import json
from pathlib import Path

import numpy as np
import pytest

from lavis_mafa.reports.table import results_table, write_json

RESULTS = {
    "retrieval": {
        "itc": {
            "annotation": {
                "image": {"r1": 4.1, "r5": 15.0, "r10": 24.5},
                "text": {"r1": 4.94, "r5": 14.0, "r10": 21.8},
            },
            "truth": {"image": {"r1": 100.0, "r5": 100.0, "r10": 100.0}},
        },
        "itm": {"annotation": {"image": {"r1": 9.0}, "text": {"r1": 8.0}}},
    },
    "judgments": {
        "all": {
            "itc": {"auc": 0.827, "ap": 0.75049, "pairs": 6835},
            "con_d": {"auc": 0.9, "ap": 0.8, "pairs": 6835},
        },
        "any_kind_unanimous": {"itc": {"auc": 1.0, "ap": 0.95, "pairs": 12}},
    },
    "connections": {"pairs_scored": 12345, "connections": 1234, "precision": 0.956, "recall": None, "coverage": 0.5},
    "plan": {"sampling": "grit", "distinct_images_per_batch": 64, "itm_false_negative_rate": float("nan")},
}
TABLE = """\
Retrieval, in %                           image R@1    R@5   R@10    text R@1   R@5  R@10
-----------------------------------------------------------------------------------------
against the annotation, by ITC                  4.1   15.0   24.5         4.9  14.0  21.8
against the annotation, re-ranked by ITM        9.0      -      -         8.0     -     -
against the truth, by ITC                     100.0  100.0  100.0           -     -     -

Agreement with human judgments  pairs    ITC AUC     AP    Con-D AUC     AP
---------------------------------------------------------------------------
false vs hard true negatives    6,835      0.827  0.750        0.900  0.800
  where all votes agree            12      1.000  0.950            -      -

Connections                         found  precision  recall  coverage
----------------------------------------------------------------------
over the 12,345 pairs put to Con-D  1,234     95.6 %       -    50.0 %

Batches                              grit
-----------------------------------------
distinct images per batch            64.0
false negatives among ITM negatives     -"""


def test_the_table_shows_every_figure_and_a_dash_for_what_is_missing() -> None:
    assert results_table(RESULTS) == TABLE


@pytest.mark.parametrize("missing", ["retrieval", "judgments", "connections", "plan"])
def test_any_part_may_be_missing(missing: str) -> None:
    part = TABLE.split("\n\n")[list(RESULTS).index(missing)]
    rest = {name: value for name, value in RESULTS.items() if name != missing}
    expected = "\n\n".join(other for other in TABLE.split("\n\n") if other != part)
    assert results_table(rest) == results_table({**rest, missing: None}) == expected


def test_json_holds_plain_readable_values(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "results.json"
    figures = {
        "third": 1 / 3,
        "small": np.float32(1e-4),
        "large": 1_700_000_000.123,
        "nan": float("nan"),
        "inf": np.float64("-inf"),
        "count": np.int64(2**60),
        "array": np.array([0.5, np.nan]),
        "known": True,
        "none": None,
        3: (Path("a/b"), "é"),
    }
    write_json(path, {"figures": figures})
    assert json.loads(path.read_text(encoding="utf-8")) == {
        "figures": {
            "third": 0.333333,
            "small": 0.0001,
            "large": 1_700_000_000.123,
            "nan": None,
            "inf": None,
            "count": 2**60,
            "array": [0.5, None],
            "known": True,
            "none": None,
            "3": ["a/b", "é"],
        }
    }


def test_what_is_no_json_leaves_the_old_file_alone(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    assert json.loads(path.read_text()) == {"a": 1}
    assert list(tmp_path.iterdir()) == [path]
