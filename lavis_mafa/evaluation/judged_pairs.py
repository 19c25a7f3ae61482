"""Pairs of an image and a caption that people judged (`run.judged_pairs`), from a table in any format.

docs/reference/judged-pairs.md describes the columns. Tested in tests/evaluation/test_judged_pairs.py.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from lavis_mafa.data.annotations import Columns
from lavis_mafa.data.identity import clean_path
from lavis_mafa.data.readers import rows_of
from lavis_mafa.data.records import RecordTable

KINDS = ("false_negative", "hard_true_negative")
HALF = 0.5  # a share of votes, and a label, match above it
YES_NO = (("votes_yes", "votes_no"), ("cf_yes", "cf_no"))  # counts; the second names are those of Flickr8k's crowd
RATINGS = ("rating", "ratings", "score", "agg_score")  # on any scale
EXPERT, DESCRIBES = "expert", 3  # Flickr8k's experts: 1, unrelated, to 4; from 3 on the caption fits

Values = Mapping[str, object]


@dataclass(frozen=True)
class JudgedPairs:
    """P judged pairs over I images and T captions.

    record_I: the split's record of every image; captions: (T,) raw; pairs: (P,) rows of image (0..I-1), text (0..T-1),
    label (bool: people say it matches), kind ("" without one), and unanimous (bool: no person says otherwise; null
    where single votes are not known). outside: rows about images that the split lacks.
    """

    record_I: NDArray[np.int64]
    captions: list[str]
    pairs: pd.DataFrame
    outside: int = 0

    def selections(self) -> dict[str, NDArray[np.bool_]]:
        """The pairs (P,) that a figure is taken over; one without a match or without a mismatch is left out.

        Where the table has kinds, `all` are false negatives and hard true negatives, and `any_kind` is every pair.
        """
        hard, votes = self.pairs["kind"].isin(KINDS).to_numpy(), self.pairs["unanimous"]
        every, sure = np.ones_like(hard), votes.fillna(False).to_numpy(dtype=np.bool_)
        masks = {"all": hard, "unanimous": hard & sure, "any_kind": every, "any_kind_unanimous": sure}
        if not hard.any():
            masks = {"all": every, "unanimous": sure}
        return {name: mask for name, mask in masks.items() if self.pairs["label"][mask].nunique() == 2}


def read_judged_pairs(file: str | Path, table: RecordTable, threshold: float | None = None) -> JudgedPairs:
    """The judged pairs of a table (JSON, JSONL, CSV, TSV, Parquet) that are about the images of `table`.

    threshold: the label, share of yes votes or mean rating from which a pair matches; None: above 0.5, and for ratings
    there is no such default.
    ValueError, naming file and row: no such file, a broken row, ratings without a threshold, no image that `table` has,
    no match, no mismatch.
    """
    file = Path(file).expanduser()
    if not file.is_file():
        raise ValueError(f"run.judged_pairs: no file at {file}; set it to a table of judged pairs, or to null")
    record_of = {table.image(record): record for record in range(table.n_records)}
    rows, outside = [], 0
    for image, *judged in _judgments(file, threshold):
        record = record_of.get(clean_path(image))
        outside += record is None
        if record is not None:
            rows.append((record, *judged))
    if outside:
        seen = outside + len(rows)
        logging.info("%s: %d of %d judged pairs are about images that the split lacks", file, outside, seen)
    if not rows:
        raise ValueError(
            f"{file} has no pair about an image of the split that run.judged_pairs refers to (the first of "
            "run.test_splits, or run.split when mining): its paths must be those of the annotation"
        )
    read = pd.DataFrame(rows, columns=["record", "caption", "label", "kind", "unanimous"])
    image_P, record_I = pd.factorize(read["record"])
    text_P, caption_T = pd.factorize(read["caption"])
    pairs = read[["label", "kind"]].assign(unanimous=read["unanimous"].astype("boolean"), image=image_P, text=text_P)
    found = JudgedPairs(np.asarray(record_I, dtype=np.int64), list(caption_T), pairs, outside)
    if "all" not in found.selections():
        of_kinds = f" of kind {KINDS[0]} and {KINDS[1]}" if read["kind"].isin(KINDS).any() else ""
        raise ValueError(f"{file}: there must be pairs{of_kinds} that match and pairs that do not")
    return found


def _judgments(file: Path, threshold: float | None) -> Iterator[tuple[str, str, bool, str, bool | None]]:
    """(image, caption, whether it matches, kind, unanimous) of every row."""
    columns: Columns | None = None
    for place, row in rows_of(file):
        try:
            columns = columns or Columns.find(row, None, None, None)
            found = columns.read(row)
            if len(found.captions) != 1:
                raise ValueError(f"a judgement is about one caption, not {len(found.captions)}")
            values = cast(Values, row)
            label, unanimous = judgement(values, threshold)
        except ValueError as error:
            raise ValueError(f"{file}, {place}: {error}") from None
        yield found.image, found.captions[0], label, str(values.get("kind") or ""), unanimous


def judgement(row: Values, threshold: float | None) -> tuple[bool, bool | None]:
    """(whether people say that the pair matches, whether no one says otherwise; None where single votes are unknown).

    ValueError: nothing that judges, or not in its range.
    """
    votes, ratings = _votes(row), _ratings(row)
    if row.get("label") is not None:
        label = _reaches(_share("label", row["label"]), threshold)
    elif ratings and threshold is None:
        raise ValueError("ratings need run.judged_threshold: the mean rating from which a pair matches")
    elif ratings:
        label = _reaches(float(np.mean(ratings)), threshold, of_shares=False)
    elif votes:
        label = _reaches(float(np.mean(votes)), threshold)
    else:
        raise ValueError("lacks a judgement: label (0 to 1), votes_yes and votes_no, or rating")
    if not votes and len(ratings) > 1 and threshold is not None:
        votes = [rating >= threshold for rating in ratings]
    return label, all(vote == label for vote in votes) if votes else None


def _reaches(value: float, threshold: float | None, of_shares: bool = True) -> bool:
    if threshold is None:
        return value > HALF
    if of_shares and not 0 <= threshold <= 1:
        raise ValueError(f"run.judged_threshold is {threshold:g}, but labels and shares of votes lie in [0, 1]")
    return value >= threshold


def _votes(row: Values) -> list[bool]:
    """The vote of every person: whether the caption fits the image."""
    votes: list[bool] = []
    for yes, no in YES_NO:
        for name, vote in ((yes, True), (no, False)):
            votes += [vote] * _count(name, row.get(name))
    grades = _listed(EXPERT, row.get(EXPERT))
    if not all(grade in (1, 2, 3, 4) for grade in grades):
        raise ValueError(f"{EXPERT!r} must be a list of grades from 1 to 4, not {row[EXPERT]!r:.80}")
    return votes + [grade >= DESCRIBES for grade in grades]


def _ratings(row: Values) -> list[float]:
    return next((found for name in RATINGS if (found := _listed(name, row.get(name)))), [])


def _listed(name: str, value: object) -> list[float]:
    """A number or a list of numbers, also written as text."""
    if isinstance(value, str) and value.strip().startswith("["):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise ValueError(f"{name!r} must be a number or a list of numbers, not {value!r:.80}") from None
    if value is None or value == "":
        return []
    return [_number(name, one) for one in (value if isinstance(value, list) else [value])]


def _number(name: str, value: object) -> float:
    try:
        found = float(cast(str, value))
    except (TypeError, ValueError):
        found = math.nan
    if not math.isfinite(found):
        raise ValueError(f"{name!r} must be a number, not {value!r:.80}")
    return found


def _share(name: str, value: object) -> float:
    found = _number(name, value)
    if not 0 <= found <= 1:
        raise ValueError(f"{name!r} must be from 0 (no match) to 1 (a match), not {value!r:.80}; call ratings `rating`")
    return found


def _count(name: str, value: object) -> int:
    if value is None or value == "":
        return 0
    found = _number(name, value)
    if found < 0 or not found.is_integer():
        raise ValueError(f"{name!r} must be a count of votes, not {value!r:.80}")
    return int(found)
