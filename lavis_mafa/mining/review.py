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

BINS = 10  # strata: equal steps of P(match)
LABELS = {"": np.nan, "0": 0.0, "1": 1.0, "0.0": 0.0, "1.0": 1.0}

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Labelled:
    """Labelled candidates: at_L their places, true_L, weight_L how many candidates each stands for."""

    at_L: Ints
    true_L: NDArray[np.bool_]
    weight_L: NDArray[np.float64]
    outside: int = 0  # labelled pairs that are no candidates


def sample_for_review(p_K: Floats, size: int, seed: int) -> tuple[Ints, NDArray[np.float64]]:
    """Places of up to `size` pairs, as many from each stratum of P(match), and how many pairs each stands for."""
    rng = np.random.default_rng(seed)
    stratum_K = np.minimum((p_K * BINS).astype(int), BINS - 1)
    chosen, weight = [], []
    strata = sorted((np.flatnonzero(stratum_K == b) for b in range(BINS)), key=len)
    left, open_strata = size, sum(len(members) > 0 for members in strata)
    for members in strata:  # the smallest first: the larger ones fill up what they lack
        if not len(members):
            continue
        count = min(len(members), left // open_strata)
        left, open_strata = left - count, open_strata - 1
        if count:
            chosen.append(np.sort(rng.permutation(members)[:count]))
            weight.append(np.full(count, len(members) / count))
    if not chosen:
        return np.empty(0, np.int64), np.empty(0)
    at = np.concatenate(chosen).astype(np.int64)
    order = rng.permutation(len(at))  # shuffled, so that the position does not hint at the label
    return at[order], np.concatenate(weight)[order]


def write_review(path: Path, frame: pd.DataFrame) -> None:
    """`frame` with an empty column `label`, to be filled in with 1 (the caption holds) or 0."""
    write_csv(path, frame.assign(label=""))


def read_review(path: Path, corpus: Corpus, pairs: CandidatePairs) -> Labelled:
    """Labels of candidates from a CSV with the columns image, caption, label and, if it is a sample, weight.

    Raises ValueError, naming file and line: no CSV, a missing column, a label that is not 0, 1 or empty, an unknown
    image, a weight that is none.
    """
    answers = reviewed_pairs(path, corpus.table)
    text = corpus.places(answers["caption"])
    key_L = packed(answers["record"].to_numpy(), np.maximum(text, 0))
    at_L, inside = places(packed(pairs.record_K, pairs.text_K), key_L)
    inside &= text >= 0
    match, weight = answers["match"].to_numpy(), answers["weight"].to_numpy()
    return Labelled(at_L[inside], match[inside], weight[inside], int((~inside).sum()))


def reviewed_pairs(path: Path, table: RecordTable) -> pd.DataFrame:
    """The rows that have a label: record, caption, match, weight. Errors: those of read_review."""
    frame = _read(path)
    missing = {"image", "caption", "label"} - set(frame.columns)
    if missing:
        raise ValueError(f"{path} lacks the column {', '.join(sorted(missing))}; it needs image, caption and label")
    label = _column(path, frame["label"].str.strip(), "label", LABELS.get, "0, 1 or nothing")
    record_of = {image: record for record, image in enumerate(table.images.to_pylist())}
    record = _column(path, frame["image"].map(clean_path), "image", record_of.get, "an image of the data set")
    given = frame["weight"] if "weight" in frame else pd.Series("1", frame.index)
    weight = _column(path, given, "weight", _weight, "a number above 0")
    found = pd.DataFrame({"record": record.astype(np.int64), "caption": frame["caption"], "match": label == 1})
    answered: pd.DataFrame = found.assign(weight=weight)[~np.isnan(label)]
    return answered


def _read(path: Path) -> pd.DataFrame:
    try:
        return pd.read_csv(path, dtype=str, keep_default_na=False).map(from_text)
    except ValueError as error:  # pandas' own errors are
        raise ValueError(
            f"{path} is not a CSV file in UTF-8 ({error}): restore it, or delete it to get a new sample"
        ) from error


def _weight(value: str) -> float | None:
    try:
        return float(value) if 0 < float(value) < float("inf") else None
    except ValueError:
        return None


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
