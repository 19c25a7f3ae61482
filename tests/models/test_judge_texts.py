"""A judge's sentence encoders know the training captions before the first step; a second start reads them from disk."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any
from unittest import mock

import lavis_mafa.compat  # noqa: F401  before the first import of lavis

import pyarrow as pa
import pytest
import torch
from lavis.processors.blip_processors import BlipImageEvalProcessor

from lavis_mafa.core.calibration import Calibration
from lavis_mafa.core.settings import MafaSettings
from lavis_mafa.data.dataset import PairDataset
from lavis_mafa.data.records import RecordTable
from lavis_mafa.encoders.text_encoder import TextEncoder
from lavis_mafa.runners import token_cache
from lavis_mafa.runners.token_cache import attach_judge_texts, caption_scorers
from lavis_mafa.scorers.calibrated import Calibrated
from lavis_mafa.scorers.composite import Ensemble
from lavis_mafa.scorers.registry import ScorerRequest, build_scorer

CPU = torch.device("cpu")
CAPTIONS = [["a dog runs", "The dog sleeps"], ["a cat sits", "the red car"]]


@pytest.fixture
def data() -> PairDataset:
    table = RecordTable.from_rows(pa.table({"image": ["a.jpg", "b.jpg"], "caption": CAPTIONS}), dataset="test")
    return PairDataset(table, mock.Mock(), BlipImageEvalProcessor(16), str.lower, seed=0, augmented=False)


def captions_judge(folder: Path, data: PairDataset, **more: object) -> Any:
    section = {"arch": "captions", "encoder": str(folder), **more}
    return build_scorer(ScorerRequest(section, "run.con_d", CPU, MafaSettings(), data))


def whole_batch(data: PairDataset) -> tuple[Any, torch.Tensor, torch.Tensor]:
    """Every image with every caption, raw as a batch has them."""
    image_K, text_K = torch.cartesian_prod(torch.arange(2), torch.arange(4)).T
    captions = [caption for own in CAPTIONS for caption in own]
    return {"image_id": torch.from_numpy(data.table.image_id), "caption": captions}, image_K, text_K


def test_the_steps_encode_nothing(encoder_folder: Path, data: PairDataset, tmp_path: Path) -> None:
    expected = captions_judge(encoder_folder, data).score(*whole_batch(data))
    judge = captions_judge(encoder_folder, data)
    attach_judge_texts(judge, tmp_path / "tokens")
    with mock.patch.object(TextEncoder, "encoded", side_effect=AssertionError("a step encodes")):
        torch.testing.assert_close(judge.score(*whole_batch(data)), expected, atol=2e-3, rtol=0)
        second = captions_judge(encoder_folder, data)
        attach_judge_texts(second, tmp_path / "tokens")
        assert torch.equal(second.score(*whole_batch(data)), judge.score(*whole_batch(data)))


def test_members_and_a_calibrated_judge_are_reached(encoder_folder: Path, data: PairDataset, tmp_path: Path) -> None:
    one, other = captions_judge(encoder_folder, data), captions_judge(encoder_folder, data, pooling="cls")
    judge = Ensemble((Calibrated(one, mock.Mock(spec=Calibration)), other), "run.con_d")
    assert list(caption_scorers(judge)) == [one, other]
    attach_judge_texts(judge, tmp_path / "tokens")
    with mock.patch.object(TextEncoder, "encoded", side_effect=AssertionError("a step encodes")):
        for member in (one, other):
            member.score(*whole_batch(data))
    assert len(list((tmp_path / "tokens").glob("texts_*.npy"))) == 2


def test_a_judge_without_a_sentence_encoder_writes_nothing(tmp_path: Path) -> None:
    for judge in (None, mock.Mock(spec=["score", "fingerprint"])):
        attach_judge_texts(judge, tmp_path / "tokens")
    assert not (tmp_path / "tokens").exists()


def test_more_captions_than_are_kept_are_encoded_as_they_come(
    encoder_folder: Path,
    data: PairDataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(token_cache, "KEPT_TEXTS", 3)
    with caplog.at_level(logging.WARNING):
        attach_judge_texts(captions_judge(encoder_folder, data), tmp_path / "tokens")
    assert "4 different captions are more than the 3" in caplog.text and not (tmp_path / "tokens").exists()
