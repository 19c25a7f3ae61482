"""Judges made of judges: `ensemble` weighs several, `cascade` asks the costly one where the cheap one is unsure.

    run.con_d:
      arch: ensemble
      judges: [{arch: captions, encoder: …}, {arch: clip, encoder: …}]
      calibration: output/ensemble.json

    run.con_d: {arch: cascade, judges: [CHEAP, COSTLY], error: 0.02, calibration: output/cascade.json}

`python -m lavis_mafa.calibrate` fits both and writes the file. Tested in tests/scorers/test_composite.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lavis_mafa.common.config_file import plain_config
from lavis_mafa.common.hashing import digest
from lavis_mafa.core.batch import Batch
from lavis_mafa.core.calibration import Calibration
from lavis_mafa.core.scorer import PairScorer, View, looks_at_images, same_view, view_of
from lavis_mafa.scorers.calibrated import weights_of
from lavis_mafa.scorers.registry import JUDGES, Judge, ScorerRequest, Section, build_scorer, judge_files, judge_of

Floats = NDArray[np.float64]
ERROR = 0.02
LEAST_PAIRS = 100  # that the bound of a cascade settles, before its error is an error rate


@dataclass(frozen=True)
class Composite:
    """What both are: PairScorers over `members`, of which those that look at images share one view."""

    members: tuple[PairScorer, ...]
    where: str

    @cached_property
    def weights_fingerprint(self) -> str:
        return f"{type(self).__name__}:{digest(*(weights_of(member) for member in self.members))}"

    @property
    def fingerprint(self) -> str:
        """Also of what was fitted."""
        members = (member.fingerprint for member in self.members)
        return f"{self.weights_fingerprint}:{digest(*members, repr(self.as_json()))}"

    @property
    def view(self) -> View | None:
        return next((view for member in self.members if (view := view_of(member))), None)

    @property
    def reads_captions_alone(self) -> bool:
        return not any(looks_at_images(member) for member in self.members)

    def as_json(self) -> dict[str, object]:
        """What was fitted."""
        raise NotImplementedError

    def report(self) -> dict[str, int]:
        """Those of the members."""
        return {name: count for member in self.members for name, count in getattr(member, "report", dict)().items()}


@dataclass(frozen=True)
class Ensemble(Composite):
    """P = σ(w · logits of the members' scores + bias), a logistic regression cross-fitted by image."""

    calibration: Calibration | None = None

    def fit(
        self,
        score_KF: Floats,
        match_K: NDArray[np.bool_],
        image_id_K: NDArray[np.int64],
        weight_K: Floats | None = None,
    ) -> Ensemble:
        """On labelled pairs.

        Args:
            score_KF: the members' scores.
            match_K: whether people say that a pair matches.
            image_id_K: the image of each pair.
            weight_K: how many pairs each stands for; None: one each.
        """
        return replace(self, calibration=Calibration.fitted(score_KF, match_K, image_id_K, "logistic", weight_K))

    def as_json(self) -> dict[str, object]:
        return {"curves": self.calibration.as_json() if self.calibration else None}

    def fitted(self, found: Mapping[str, object]) -> Ensemble:
        """As a file has it."""
        return replace(self, calibration=Calibration.from_json(cast(Sequence[Mapping[str, object]], found["curves"])))

    def plain(self, score_KF: Floats) -> Floats:
        """(K,) the members' mean, to compare with."""
        mean_K: Floats = score_KF.mean(axis=1)
        return mean_K

    def combined(self, score_KF: Floats, image_id_K: NDArray[np.int64]) -> Floats:
        assert self.calibration is not None
        return self.calibration(score_KF, image_id_K)

    def score(self, batch: Batch, image_K: Tensor, text_K: Tensor) -> Tensor:
        """(K,) P(match)."""
        _require(self.calibration, self.where)
        score_FK = torch.stack([member.score(batch, image_K, text_K).float().cpu() for member in self.members])
        image_id_K = batch["image_id"].cpu()[image_K.cpu()].numpy()
        p_K = self.combined(score_FK.T.double().numpy(), image_id_K)
        return torch.from_numpy(p_K).to(score_FK)


@dataclass(frozen=True)
class Cascade(Composite):
    """The first member settles pairs up to settled[0] and from settled[1] on; the second is asked for the others.

    A settled pair keeps the first one's score, moved to where `bounds` (low, high of the verdicts) judge it as settled.
    """

    bounds: tuple[float, float] = (0.5, 0.8)
    error: float = ERROR
    settled: tuple[float, float] | None = None

    def fit(self, score_KF: Floats, match_K: NDArray[np.bool_], image_id_K: NDArray[np.int64]) -> Cascade:
        """The bounds that settle most while, on either side, at most `error` of what is settled the second member
        judges otherwise. Labels are not looked at."""
        cheap_K, costly_K = score_KF.T
        below = _bound(cheap_K, costly_K >= self.bounds[0], self.error)
        above = 1 - _bound(1 - cheap_K, costly_K <= self.bounds[1], self.error)
        return replace(self, settled=(below, max(above, float(np.nextafter(below, 2)))))

    def as_json(self) -> dict[str, object]:
        return {"settled": self.settled, "verdicts": self.bounds, "error": self.error}

    def fitted(self, found: Mapping[str, object]) -> Cascade:
        """As a file has it.

        Raises:
            ValueError: fitted for other bounds of the verdicts, or for another error.
        """
        verdicts, settled = (cast(Sequence[float], found[name]) for name in ("verdicts", "settled"))
        if (tuple(verdicts), found["error"]) != (self.bounds, self.error):
            raise ValueError(
                f"the cascade was fitted for low and high of {verdicts} and an error of {found['error']}, not "
                f"for {list(self.bounds)} and {self.error}"
            )
        low, high = settled
        return replace(self, settled=(float(low), float(high)))

    def plain(self, score_KF: Floats) -> Floats:
        """(K,) the costly member's, to compare with."""
        return score_KF[:, 1]

    def combined(self, score_KF: Floats, image_id_K: NDArray[np.int64]) -> Floats:
        cheap_K, costly_K = score_KF.T
        return np.where(self.open(cheap_K), costly_K, self.kept(cheap_K))

    def open(self, cheap_K: Floats) -> NDArray[np.bool_]:
        """(K,) which pairs the second member is asked about."""
        assert self.settled is not None
        found: NDArray[np.bool_] = (cheap_K > self.settled[0]) & (cheap_K < self.settled[1])
        return found

    def kept(self, cheap_K: Floats) -> Floats:
        """(K,) the first member's score, where it settles, as a score of that verdict."""
        assert self.settled is not None
        negative, match = np.nextafter(np.array(self.bounds, np.float32), np.array([-1, 2], np.float32)).tolist()
        low_K, high_K = np.minimum(cheap_K, max(negative, 0)), np.maximum(cheap_K, min(match, 1))
        return np.where(cheap_K <= self.settled[0], low_K, high_K)

    def score(self, batch: Batch, image_K: Tensor, text_K: Tensor) -> Tensor:
        """(K,) P(match)."""
        _require(self.settled, self.where)
        cheap, costly = self.members
        found_K = cheap.score(batch, image_K, text_K).float().cpu()
        cheap_K = found_K.double().numpy()
        open_K = torch.from_numpy(self.open(cheap_K)).to(image_K.device)
        p_K = torch.from_numpy(self.kept(cheap_K)).to(found_K)
        if open_K.any():
            p_K[open_K] = costly.score(batch, image_K[open_K], text_K[open_K]).to(p_K)
        return p_K


def _bound(score_K: Floats, wrong_K: NDArray[np.bool_], error: float) -> float:
    """The largest score up to which at most `error` are wrong; -1 where none settles enough pairs."""
    order_K = np.argsort(score_K, kind="stable")
    rate_K = np.cumsum(wrong_K[order_K]) / np.arange(1, len(order_K) + 1)
    last_K = np.diff(score_K[order_K], append=np.inf) > 0  # of equal scores all are settled, or none
    allowed = np.flatnonzero((rate_K <= error) & last_K & (np.arange(1, len(order_K) + 1) >= LEAST_PAIRS))
    return float(score_K[order_K][allowed[-1]]) if len(allowed) else -1.0


def _require(fitted: object, where: str) -> None:
    if fitted is None:
        raise ValueError(
            f"{where} is not fitted: set {where}.calibration to a file, and write that with "
            "`python -m lavis_mafa.calibrate`"
        )


def _members(request: ScorerRequest, count: str) -> tuple[PairScorer, ...]:
    """The members of an ensemble or a cascade.

    Raises:
        ValueError: too few or too many, one that serves in training alone, or several views of an image.
    """
    given, sections = plain_config(request.section).get("judges"), _sections(request.section)
    if len(sections) < 2 or (count == "two" and len(sections) > 2):
        raise ValueError(f"{request.where}.judges is {given!r}; give {count} judges, each with keys as run.con_d has")
    members = []
    for number, section in enumerate(sections):
        where = f"{request.where}.judges.{number}"
        if judge_of(section, where).training_only:
            raise ValueError(f"{where}.arch: {section['arch']!r} judges in training alone, and not beside another")
        members.append(build_scorer(replace(request, section=section, where=where)))
    views = [view for member in members if (view := view_of(member))]
    if not all(same_view(view, views[0]) for view in views[1:]):
        raise ValueError(
            f"{request.where}.judges: two of them look at images in different preparations; take one that looks at "
            "images beside judges of captions"
        )
    return tuple(members)


def _sections(section: Section) -> list[Section]:
    """Those of the members; none where any of them is no section."""
    given = plain_config(section).get("judges")
    found = given if isinstance(given, list) else []
    return found if all(isinstance(one, Mapping) and "arch" in one for one in found) else []


def build_ensemble(request: ScorerRequest) -> Ensemble:
    """Build the judge `ensemble`; errors: what _members refuses."""
    return Ensemble(_members(request, "two or more"), request.where)


def build_cascade(request: ScorerRequest) -> Cascade:
    """Build the judge `cascade`.

    Raises:
        ValueError: an error that is no share, or what _members refuses.
    """
    error = request.section.get("error", ERROR)
    if not isinstance(error, float) or not 0 < error < 0.5:
        raise ValueError(f"{request.where}.error is {error!r}; it must be a share between 0 and 0.5")
    return Cascade(_members(request, "two"), request.where, (request.rule.low, request.rule.high), error)


def _files(section: Section) -> Iterator[tuple[str, str]]:
    for number, member in enumerate(_sections(section)):
        yield from ((f"judges.{number}.{key}", path) for key, path in judge_files(member))


JUDGES.add("ensemble")(Judge(build_ensemble, ("judges",), files=_files, costs="its judges"))
JUDGES.add("cascade")(Judge(build_cascade, ("judges", "error"), files=_files, costs="its judges"))
