"""The metrics of a step, by hand: three images and captions, where caption 1 is true of image 0, caption 2
of images 0 and 1, and image 2 and caption 0 have equal captions for another reason: the annotation knows that pair."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from lavis_mafa.core.miner import MinedPairs
from lavis_mafa.core.pairs import Candidates, SettledPairs
from lavis_mafa.models.base import MafaOutput
from lavis_mafa.runners.step_metrics import step_row

TRUE = np.array([[1, 1, 1], [0, 1, 1], [1, 0, 1]], dtype=bool)  # image, caption
SAMPLES = {
    "index": torch.arange(3),
    "text_row": torch.arange(3),
    "image_id": torch.tensor([0, 1, 2]),
    "text_id": torch.tensor([5, 6, 5]),  # so (image 2, caption 0) and (image 0, caption 2) are known
}


def output(pairs: SettledPairs, **more: Any) -> MafaOutput:
    nothing = torch.zeros(0, dtype=torch.long)
    mined = MinedPairs(pairs, {}, Candidates(*[nothing] * 4, nothing.bool()), None)
    return MafaOutput(torch.tensor(0.0), {}, mined, pairs, torch.zeros(3, 2), torch.zeros(3, 2), **more)


def settled(pairs: list[tuple[int, int, int]], p: list[float] | None = None) -> SettledPairs:
    image_K, text_K, label_K = torch.tensor(pairs).T
    return SettledPairs(image_K, text_K, label_K, label_K > 5, None if p is None else torch.tensor(p))


def truth(record: np.ndarray, text_row: np.ndarray) -> np.ndarray:
    return TRUE[record, text_row]


def test_false_negatives_are_true_pairs_that_the_annotation_does_not_know() -> None:
    row = step_row(SAMPLES, output(settled([(1, 0, 0)])), truth)
    assert row["false_negatives"] == 2 and row["false_negative_rate"] == pytest.approx(2 / 6)
    without_ids = {name: SAMPLES[name] for name in ("index", "text_row")}
    assert step_row(without_ids, output(settled([(1, 0, 0)])), truth)["false_negatives"] == 4


def test_itm_is_counted_by_its_targets() -> None:
    row = step_row(SAMPLES, output(settled([(0, 1, 1), (1, 2, 0), (1, 0, 0)])), truth)
    assert (row["itm_negatives"], row["itm_false_negatives"], row["itm_false_negative_rate"]) == (2, 1, 0.5)


def test_a_distilled_pair_is_a_negative_as_far_as_con_d_says_so() -> None:
    row = step_row(SAMPLES, output(settled([(0, 1, 0), (1, 0, 0)], p=[0.9, 0.2])), truth)
    assert row["itm_negatives"] == pytest.approx(0.9) and row["itm_false_negatives"] == pytest.approx(0.1)


def test_labels_are_those_of_anchors_with_false_negatives() -> None:
    """Image 0 (caption 1) and image 1 (caption 2), captions 1 and 2: four anchors of six."""
    target_2BB = torch.full((2, 3, 3), 0.25)
    row = step_row(SAMPLES, output(settled([(1, 0, 0)]), targets=target_2BB), truth)
    assert row["anchors_with_false_negatives"] == 4 and row["label_on_false_negatives"] == pytest.approx(0.25)
    assert row["label_on_mismatches"] == pytest.approx(0.25 * 4 / 6)  # (1, 0) and (2, 1), each in two rows
