"""Labelled pairs of the split that is mined: what a calibration, or an ensemble, is fitted on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from omegaconf import DictConfig

from lavis_mafa.data.records import RecordTable
from lavis_mafa.evaluation.judged_pairs import read_judged_pairs
from lavis_mafa.mining.review import reviewed_pairs

Ints = NDArray[np.int64]
MOST = 20_000  # annotated pairs, and as many random ones


@dataclass(frozen=True)
class LabelledPairs:
    """K pairs of a record and a raw caption, and whether they match.

    source: where the labels come from. weight_K: how many pairs each stands for; None: one each.
    """

    record_K: Ints
    caption_K: list[str]
    match_K: NDArray[np.bool_]
    source: str
    weight_K: NDArray[np.float64] | None = None


def labelled_pairs(run: DictConfig, table: RecordTable) -> LabelledPairs:
    """Judged pairs where the config names some, else a review, else the annotation's own pairs against random ones.

    Raises ValueError: what the readers refuse, or a data set where no image has two captions and no label is given.
    """
    if run.judged_pairs:
        return _judged(run, table)
    if run.review:
        found = reviewed_pairs(Path(run.review).expanduser(), table)
        columns = found["record"].to_numpy(), found["caption"].tolist(), found["match"].to_numpy()
        weight_K = found["weight"].to_numpy(np.float64)
        return LabelledPairs(*columns, str(run.review), weight_K if np.ptp(weight_K) else None)
    return _annotated(table, int(run.seed))


def _judged(run: DictConfig, table: RecordTable) -> LabelledPairs:
    """False negatives against hard true negatives; a judge knows the annotated pairs among the others."""
    judged = read_judged_pairs(run.judged_pairs, table, run.judged_threshold)
    pairs = judged.pairs[judged.selections()["all"]]
    captions = [judged.captions[text] for text in pairs["text"]]
    return LabelledPairs(judged.record_I[pairs["image"]], captions, pairs["label"].to_numpy(), str(run.judged_pairs))


def _annotated(table: RecordTable, seed: int) -> LabelledPairs:
    """A judge of captions compares an annotated one with the image's others: images of one caption say nothing."""
    rng = np.random.default_rng(seed)
    several_C = np.flatnonzero(np.diff(table.offsets)[table.record_of_caption] > 1)
    if not len(several_C):
        raise ValueError("no labels, and no image has two captions: set run.judged_pairs or run.review")
    own = np.sort(rng.permutation(several_C)[:MOST])
    record_K = table.record_of_caption[own]
    other = rng.integers(table.n_captions, size=len(own))
    apart = table.image_id[table.record_of_caption[other]] != table.image_id[record_K]
    rows = np.concatenate([own, other[apart]])
    captions = [table.caption(row) for row in rows.tolist()]
    match_K = np.arange(len(rows)) < len(own)
    source = "annotated pairs against random ones"
    return LabelledPairs(np.concatenate([record_K, record_K[apart]]), captions, match_K, source)
