"""A calibrated judge through the registry: its scores, what names it, and files that are not its."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lavis_mafa.common.formats import header
from lavis_mafa.core.calibration import Calibration, Temperature
from lavis_mafa.core.scorer import reads_tokens, retriever_of, view_of
from lavis_mafa.core.settings import MafaSettings
from lavis_mafa.scorers.calibrated import Calibrated
from lavis_mafa.scorers.registry import JUDGES, Judge, ScorerRequest, build_scorer, keys_of

CURVES = Calibration(tuple(Temperature(1.0 + fold, -0.5 * fold) for fold in range(5)))


class Fixed:
    """Scores 0.2, 0.4, …; sees images by a view of its own."""

    fingerprint = "fixed"
    shares_tower = False

    def view(self, image: Any) -> torch.Tensor:
        return torch.zeros(1)

    def score(self, batch: Any, image_K: torch.Tensor, text_K: torch.Tensor) -> torch.Tensor:
        return torch.arange(1, len(image_K) + 1) * 0.2


@pytest.fixture(autouse=True)
def fixed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(JUDGES, "fixed", Judge(lambda request: Fixed(), keys=("sure",)))


def build(path: Path, **section: Any) -> Any:
    section = {"arch": "fixed", "calibration": str(path), **section}
    return build_scorer(ScorerRequest(section, "run.con_d", torch.device("cpu"), MafaSettings()))


def write(path: Path, **more: Any) -> Path:
    path.write_text(json.dumps({**header("calibration"), "judge": "fixed", "curves": CURVES.as_json(), **more}))
    return path


def test_scores_are_calibrated_by_the_fold_of_their_image(tmp_path: Path) -> None:
    judge = build(write(tmp_path / "c.json"))
    batch: Any = {"image_id": torch.tensor([7, 10, 14])}
    p_K = judge.score(batch, torch.tensor([0, 1, 2, 2]), torch.tensor([0, 0, 0, 1]))
    score_K = np.float32([0.2, 0.4, 0.6, 0.8])
    np.testing.assert_allclose(p_K, CURVES(score_K, [7, 10, 14, 14]), atol=1e-6)
    assert p_K.dtype == torch.float32


def test_the_calibration_is_part_of_the_fingerprint_and_the_rest_is_the_judges(tmp_path: Path) -> None:
    one, same = build(write(tmp_path / "c.json")), build(write(tmp_path / "d.json"))
    other = Calibrated(Fixed(), Calibration(CURVES.curves[::-1]))
    assert one.fingerprint == same.fingerprint and len({one.fingerprint, other.fingerprint, "fixed"}) == 3
    assert view_of(one) == one.inner.view and not reads_tokens(one) and retriever_of(one) is None
    one.shares_tower = True
    assert one.inner.shares_tower and reads_tokens(one)


def test_keys_of_judges() -> None:
    assert keys_of({"arch": "fixed"}) == ("arch", "calibration", "sure")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"run.con_d.calibration: no file at .*; write it with `python -m lavis_mafa.calibrate`"),
        ("{", r"is damaged or not a readable calibration"),
        ('{"curves": []}', r"is not a calibration file of lavis_mafa"),
        ({"judge": "another"}, r"was fitted for another network"),
        ({"curves": [1]}, r"is damaged or not a readable calibration \(1 curves instead of 5\)"),
    ],
)
def test_a_file_that_does_not_fit_is_refused(tmp_path: Path, content: Any, message: str) -> None:
    path = tmp_path / "c.json"
    if isinstance(content, str):
        path.write_text(content)
    elif content is not None:
        write(path, **content)
    with pytest.raises(ValueError, match=message):
        build(path)
