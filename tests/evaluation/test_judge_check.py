"""What a judge says of annotated pairs and of shuffled ones: figures by hand, and advice for judges known to be bad."""

from __future__ import annotations

import logging

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

from lavis_mafa.core.settings import MafaSettings
from lavis_mafa.data.annotations import ROWS
from lavis_mafa.data.dataset import RecordImages
from lavis_mafa.data.records import RecordTable
from lavis_mafa.evaluation.judge_check import JudgeCheck, check_judge, report_judge, sampled_pairs, scores_of

RULE = MafaSettings(low=0.5, high=0.8)


def table(captions: list[list[str]]) -> RecordTable:
    rows = [{"image": f"{record}.png", "caption": own} for record, own in enumerate(captions)]
    return RecordTable.from_rows(pa.Table.from_pylist(rows, schema=ROWS), dataset="x")


TABLE = table([[f"caption {record}", f"other {record}"] for record in range(300)])


class Judge:
    """P(match) of annotated pairs and of all others; keeps what it was asked about."""

    def __init__(self, own: float, other: float, noise: float = 0.0) -> None:
        self.own, self.other, self.noise = own, other, noise

    def __call__(self, record_K: np.ndarray, row_K: np.ndarray) -> np.ndarray:
        own_K = TABLE.record_of_caption[row_K] == record_K
        noise_K = np.random.default_rng(1).normal(0, self.noise, len(own_K))
        return np.where(own_K, self.own, self.other).astype(np.float32) + noise_K.astype(np.float32)


def test_shares_by_hand() -> None:
    found = JudgeCheck.of(np.array([0.9, 0.81, 0.8, 0.6, 0.5, 0.1], np.float32), 0.9, RULE)
    assert (found.annotated_pairs, found.above_high, found.below_low) == (6, 2 / 6, 1 / 6)
    assert found.median == pytest.approx(0.7) and not found.advice
    assert str(found) == (
        "P(match) of 6 annotated pairs has a median of 0.70, 33% are above 0.8, 17% below 0.5; "
        "AUC against shuffled pairs 0.90"
    )


def test_a_sample_is_of_annotated_pairs_and_of_others_captions() -> None:
    (own_N, row_N), (other_M, row_M) = sampled_pairs(TABLE, 50)
    assert len(np.unique(own_N)) == 50 == len(other_M)
    assert (TABLE.record_of_caption[row_N] == own_N).all() and not (TABLE.record_of_caption[row_M] == other_M).any()
    same = table([["a"], ["a"], ["a"]])
    assert [len(part) for pair in sampled_pairs(same, 50) for part in pair] == [3, 3, 0, 0]


@pytest.mark.parametrize(
    ("judge", "advice"),
    [
        (Judge(0.95, 0.1, 0.02), ""),
        (Judge(0.3, 0.1, 0.02), "it doubts 100% of the annotated pairs, so the bounds low 0.5 and high 0.8 do not fit"),
        (Judge(0.6, 0.6, 0.05), "it hardly separates annotated pairs from shuffled ones"),
        (Judge(0.9, 0.9), "it hardly separates"),
    ],
)
def test_a_doubtful_judge_says_so(judge: Judge, advice: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        found = report_judge(judge, TABLE, RULE)
    assert found.annotated_pairs == 200 and found.advice.startswith(advice) and bool(found.advice) == bool(advice)
    assert [record.levelno for record in caplog.records] == [logging.INFO, *[logging.WARNING] * bool(advice)]
    assert found.as_dict()["advice"] == found.advice


def test_one_image_has_no_shuffled_pair() -> None:
    lone = table([["a"]])
    found = check_judge(lambda record_K, row_K: np.full(len(record_K), 0.9, np.float32), lone, RULE)
    assert found.auc_against_shuffled is None and not found.advice and "pairs -" in str(found)


def test_a_scorer_is_asked_by_its_own_view() -> None:
    class Seeing:
        fingerprint = "x"

        def view(self, image: Image.Image) -> torch.Tensor:
            return torch.tensor([float(image.getpixel((0, 0))[0])])  # type: ignore[index]

        def score(self, batch, image_K, text_K):  # type: ignore[no-untyped-def]
            red_K = batch["judge_image"][image_K, 0]
            said_K = torch.tensor([float(batch["caption"][text].split()[1]) for text in text_K.tolist()])
            return (red_K == said_K).float()

    data = RecordImages(TABLE, lambda record: Image.new("RGB", (1, 1), (record % 256, 0, 0)), lambda image: None)
    score = scores_of(Seeing(), data, torch.device("cpu"))
    first = TABLE.offsets[:-1]
    asked = np.array([5, 200, 40, 5]), first[[5, 200, 41, 6]]
    assert score(*asked).tolist() == [1, 1, 0, 0]
