"""Judges made of judges: what they are fitted to, whom they ask, and what they refuse."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import expit, logit

from lavis_mafa.common.formats import header
from lavis_mafa.core.metrics import roc_auc
from lavis_mafa.core.pairs import judge
from lavis_mafa.core.scorer import looks_at_images, view_of
from lavis_mafa.core.settings import MafaSettings
from lavis_mafa.scorers import composite
from lavis_mafa.scorers.calibrated import weights_of
from lavis_mafa.scorers.composite import Cascade, Ensemble
from lavis_mafa.scorers.registry import JUDGES, Judge, ScorerRequest, build_scorer, judge_files

CPU = torch.device("cpu")


class Column:
    """The score is a number of the caption, "0.3 0.9": its `place`; counts the pairs that it is asked about."""

    def __init__(self, place: int, view: Any = None) -> None:
        self.place, self.fingerprint, self.asked = place, f"column {place}", 0
        self.reads_captions_alone = view is None
        if view is not None:
            self.view = view

    def score(self, batch: Any, image_K: torch.Tensor, text_K: torch.Tensor) -> torch.Tensor:
        self.asked += len(text_K)
        return torch.tensor([float(batch["caption"][text].split()[self.place]) for text in text_K.tolist()])


@pytest.fixture(autouse=True)
def judges(monkeypatch: pytest.MonkeyPatch) -> None:
    kinds = {"first": (0, None), "second": (1, None), "sees": (1, str), "sees_otherwise": (1, repr)}
    for name, (place, view) in kinds.items():
        build = lambda request, place=place, view=view: Column(place, view)  # noqa: E731
        monkeypatch.setitem(JUDGES, name, Judge(build, ("file",), files=lambda section: [("file", "x")]))


def build(*judges: str, **section: Any) -> Any:
    section = {"arch": "ensemble", "judges": [{"arch": name} for name in judges], **section}
    return build_scorer(ScorerRequest(section, "run.con_d", CPU, MafaSettings()))


def drawn(n: int = 4000) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(scores (K, 2), matches, image ids): both judges know something of the truth, in different ways."""
    rng = np.random.default_rng(0)
    match_K = rng.uniform(size=n) < 0.4
    score_K2 = expit(rng.normal(size=(n, 2)) + np.where(match_K, 1.0, -1.0)[:, None] * [1.0, 1.5])
    return score_K2, match_K, rng.integers(1 << 60, size=n)


def asked(scorer: Any, score_K2: np.ndarray, image_K: np.ndarray) -> np.ndarray:
    rows = torch.arange(len(score_K2))
    batch: Any = {"caption": [f"{one} {two}" for one, two in score_K2], "image_id": torch.from_numpy(image_K)}
    return scorer.score(batch, rows, rows).numpy()


def written(path: Path, scorer: Any) -> Path:
    path.write_text(json.dumps({**header("calibration"), "judge": weights_of(scorer), **scorer.as_json()}))
    return path


def test_an_ensemble_is_better_than_its_judges_and_reads_back_what_was_fitted(tmp_path: Path) -> None:
    score_K2, match_K, image_K = drawn()
    fitted = build("first", "second").fit(score_K2, match_K, image_K)
    curve = fitted.calibration.curves[0]
    assert curve.weights == pytest.approx([2.0, 3.0], rel=0.15)  # log-odds of normals of unit variance: 2 · mean
    again = build("first", "second", calibration=str(written(tmp_path / "e.json", fitted)))
    p_K = asked(again, score_K2[:50], image_K[:50])
    np.testing.assert_allclose(p_K, fitted.combined(score_K2[:50], image_K[:50]), atol=1e-6)
    by_hand = expit(logit(score_K2[:50]) @ curve.weights + curve.bias)
    at = image_K[:50] % 5 == 0
    np.testing.assert_allclose(p_K[at], by_hand[at], atol=1e-6)
    alone = max(roc_auc(match_K, column) for column in score_K2.T)
    assert roc_auc(match_K, fitted.combined(score_K2, image_K)) > alone + 0.01
    assert len({again.fingerprint, build("first", "second").fingerprint, build("second", "first").fingerprint}) == 3


def test_a_cascade_asks_the_costly_judge_where_the_cheap_one_is_unsure(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    costly_K = rng.uniform(size=6000)
    cheap_K = np.clip(costly_K + rng.normal(size=6000) * 0.05, 0, 1)
    score_K2, image_K = np.stack([cheap_K, costly_K], axis=1), rng.integers(1 << 60, size=6000)
    fitted = build("first", "second", arch="cascade", error=0.02).fit(score_K2, costly_K > 0.5, image_K)
    open_K = fitted.open(cheap_K)
    verdict_K, costly_verdict_K = judge(fitted.combined(score_K2, image_K), 0.5, 0.8), judge(costly_K, 0.5, 0.8)
    for settled_K in (cheap_K <= fitted.settled[0], cheap_K >= fitted.settled[1]):
        wrong = (verdict_K != costly_verdict_K)[settled_K].mean()
        assert 0.01 < wrong <= 0.02 and settled_K.mean() > 0.1, "as much as the error allows"
    assert not (verdict_K != costly_verdict_K)[open_K].any() and 0.2 < open_K.mean() < 0.8
    again = build("first", "second", arch="cascade", error=0.02, calibration=str(written(tmp_path / "c.json", fitted)))
    np.testing.assert_allclose(
        asked(again, score_K2[:200], image_K[:200]), fitted.combined(score_K2[:200], image_K[:200]), atol=1e-6
    )
    assert [member.asked for member in again.members] == [200, int(open_K[:200].sum())]
    with pytest.raises(ValueError, match=r"the cascade was fitted for low and high of .* an error of 0.02, not for"):
        build("first", "second", arch="cascade", error=0.1, calibration=str(tmp_path / "c.json"))


def test_a_cascade_that_may_settle_nothing_asks_about_every_pair() -> None:
    score_K2 = np.random.default_rng(2).uniform(size=(400, 2))  # the cheap judge knows nothing
    fitted = build("first", "second", arch="cascade").fit(score_K2, score_K2[:, 1] > 0.5, np.arange(400))
    assert fitted.open(score_K2[:, 0]).all()
    assert composite._bound(np.array([0.1, 0.2]), np.array([False, False]), 0.1) == -1, "too few for a rate"


@pytest.mark.parametrize(("kind", "name"), [(Ensemble, "ensemble"), (Cascade, "cascade")])
def test_what_they_look_at_and_which_files_they_read(kind: type, name: str) -> None:
    one = build("first", "sees", arch=name)
    assert isinstance(one, kind) and view_of(one) is str and looks_at_images(one)
    assert view_of(build("first", "second", arch=name)) is None
    assert not looks_at_images(build("first", "second", arch=name))
    section = {"arch": name, "judges": [{"arch": "first"}, {"arch": "second", "calibration": "y"}], "calibration": "z"}
    files = [("judges.0.file", "x"), ("judges.1.file", "x"), ("judges.1.calibration", "y"), ("calibration", "z")]
    assert list(judge_files(section)) == files
    with pytest.raises(ValueError, match=r"run.con_d is not fitted: set run.con_d.calibration"):
        asked(one, np.array([[0.1, 0.2]]), np.array([3]))


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"judges": [{"arch": "first"}]}, r"run.con_d.judges is .*; give two or more judges"),
        ({"judges": "first"}, r"run.con_d.judges is 'first'"),
        ({"judges": ["first", "second"]}, r"run.con_d.judges is \['first', 'second'\]"),
        ({"judges": [{"arch": "first"}, {"arch": "thrid"}]}, r"run.con_d.judges.1.arch: there is no judge 'thrid'"),
        ({"judges": [{"arch": "sees"}, {"arch": "sees_otherwise"}]}, r"look at images in different preparations"),
        ({"arch": "cascade", "judges": [{"arch": "first"}] * 3}, r"give two judges"),
        ({"arch": "cascade", "error": 1.5}, r"run.con_d.error is 1.5; it must be a share between 0 and 0.5"),
    ],
)
def test_what_cannot_judge_together_is_refused(section: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build("first", "second", **section)
