"""review.csv: pairs for people to label, and the figures from their labels. Tested in tests/mining/test_review.py."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from lavis_mafa.common.spreadsheets import from_text, write_csv
from lavis_mafa.data.identity import clean_path
from lavis_mafa.data.records import RecordTable
from lavis_mafa.mining.candidates import CandidatePairs
from lavis_mafa.mining.corpus import Corpus, packed, places

LABELS = {"": np.nan, "0": 0.0, "1": 1.0, "0.0": 0.0, "1.0": 1.0}

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Labelled:
    """Labelled candidates: at_L their places, true_L, weight_L how many candidates each stands for.

    above_L: lower edge of the stratum of P(match) that each was drawn from (mining/strata.py); None: from none that the
    labels name.
    """

    at_L: Ints
    true_L: NDArray[np.bool_]
    weight_L: NDArray[np.float64]
    outside: int = 0  # labelled pairs that are no candidates
    above_L: Floats | None = None


def write_review(path: Path, frame: pd.DataFrame) -> None:
    """`frame` after an empty column `label`, to be filled in with 1 (the caption holds) or 0."""
    write_csv(path, pd.concat([pd.Series("", frame.index, name="label"), frame], axis=1))


def read_review(path: Path, corpus: Corpus, pairs: CandidatePairs) -> Labelled:
    """Labels of candidates from a CSV.

    Where the rows of a stratum are labelled in part, those stand for the others, too.

    Args:
        path: the CSV, with the columns image, caption, label and, if it is a sample, weight and above.
        corpus: the records that it names.
        pairs: the candidates.

    Raises:
        ValueError: naming file and line: no CSV, a missing column, a label that is not 0, 1 or empty, an unknown image,
            a weight or an edge that is none.
    """
    answers = reviewed_pairs(path, corpus.table)
    text = corpus.places(answers["caption"])
    key_L = packed(answers["record"].to_numpy(), np.maximum(text, 0))
    at_L, inside = places(packed(pairs.record_K, pairs.text_K), key_L)
    inside &= text >= 0
    match, weight = answers["match"].to_numpy(), answers["weight"].to_numpy()
    above = answers["above"].to_numpy(np.float32)[inside] if "above" in answers else None
    return Labelled(at_L[inside], match[inside], weight[inside], int((~inside).sum()), above)


@dataclass(frozen=True)
class Labels:
    """The labels that people gave L pairs, candidates or not, packed (corpus.py), each once."""

    key_L: Ints
    true_L: NDArray[np.bool_]


def read_labels(path: Path, corpus: Corpus) -> Labels:
    """The labels of all pairs whose caption is among the mined ones.

    Errors: those of read_review; and a pair that is labelled 1 in one row and 0 in another.
    """
    answers = reviewed_pairs(path, corpus.table)
    text = corpus.places(answers["caption"])
    known = answers[text >= 0]
    key_R, true_R = packed(known["record"].to_numpy(), text[text >= 0]), known["match"].to_numpy()
    key_L, first_L, row_R = np.unique(key_R, return_index=True, return_inverse=True)
    for row in np.flatnonzero(true_R != true_R[first_L][row_R]).tolist():
        lines = known.index[first_L[row_R[row]]] + 2, known.index[row] + 2  # the header is line 1
        raise ValueError(f"{path}: lines {lines[0]} and {lines[1]} label the same pair differently: keep one of them")
    return Labels(key_L, true_R[first_L])


def reviewed_pairs(path: Path, table: RecordTable) -> pd.DataFrame:
    """The rows that have a label: record, caption, match, weight and, if the file has it, above.

    Errors: those of read_review.
    """
    frame = _read(path)
    missing = {"image", "caption", "label"} - set(frame.columns)
    if missing:
        raise ValueError(f"{path} lacks the column {', '.join(sorted(missing))}; it needs image, caption and label")
    label = _column(path, frame["label"].str.strip(), "label", LABELS.get, "0, 1 or nothing")
    record_of = {image: record for record, image in enumerate(table.images.to_pylist())}
    record = _column(path, frame["image"].map(clean_path), "image", record_of.get, "an image of the data set")
    given = frame["weight"] if "weight" in frame else pd.Series("1", frame.index)
    stands = _column(path, given, "weight", _weight, "a number above 0")
    found = pd.DataFrame({"record": record.astype(np.int64), "caption": frame["caption"], "match": label == 1})
    if "above" in frame:
        found["above"] = _column(path, frame["above"], "above", _number, "a number, as mining wrote it")
        stands = stands * _drawn_for_each(found["above"].factorize()[0], ~np.isnan(label))
    answers: pd.DataFrame = found.assign(weight=stands)[~np.isnan(label)]
    return answers


def _drawn_for_each(stratum: Ints, answered: NDArray[np.bool_]) -> NDArray[np.float64]:
    """How many drawn rows of its stratum a labelled row stands for."""
    rows = np.bincount(stratum) / np.maximum(np.bincount(stratum, answered), 1)
    drawn: NDArray[np.float64] = rows[stratum]
    return drawn


def _number(value: str) -> float | None:
    try:
        return float(value) if np.isfinite(float(value)) else None
    except ValueError:
        return None


def _read(path: Path) -> pd.DataFrame:
    try:
        return pd.read_csv(path, dtype=str, keep_default_na=False).map(from_text)
    except ValueError as error:  # pandas' own errors are
        raise ValueError(
            f"{path} is not a CSV file in UTF-8 ({error}): restore it, or delete it to get a new sample"
        ) from error


def _weight(value: str) -> float | None:
    number = _number(value)
    return number if number is not None and number > 0 else None


def _column(
    path: Path, values: pd.Series[str], name: str, read: Callable[[str], float | None], allowed: str
) -> NDArray[np.float64]:
    found = [read(value) for value in values]
    for line, (value, got) in enumerate(zip(values, found, strict=True), 2):
        if got is None:
            raise ValueError(f"{path}, line {line}: {name} is {value!r:.80}; it must be {allowed}")
    return np.array(found, dtype=np.float64)


def has_labels(path: Path) -> bool:
    """Whether the file has labels; then it is kept as it is."""
    if not path.exists():
        return False
    frame = _read(path)
    return "label" not in frame or bool(frame["label"].str.strip().ne("").any())


def precision_recall(p_L: Floats, labelled: Labelled) -> pd.DataFrame:
    """Precision and recall over the candidates for every threshold: pairs above it count as connections.

    Weighted, so that a stratified sample stands for all candidates; columns threshold, precision, recall.
    """
    order = np.argsort(-p_L, kind="stable")
    true = (labelled.weight_L * labelled.true_L)[order].cumsum()
    taken = labelled.weight_L[order].cumsum()
    last = np.diff(p_L[order], append=-np.inf) != 0  # of equal scores all are in
    total = max(true[-1], 1e-12) if len(true) else 1.0
    frame = {"threshold": p_L[order][last], "precision": (true / taken)[last], "recall": (true / total)[last]}
    return pd.DataFrame(frame)
