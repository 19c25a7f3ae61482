"""Conclusions that R@1 draws and a test set with several matches does not. Tested in tests/reports/test_flips.py."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, product

from lavis_mafa.reports.comparison import FinishedRun

FIGURES = {"r_precision": "R-precision", "map_at_r": "mAP@R"}


@dataclass(frozen=True)
class Flip:
    """By R@1 against the annotation `better` is ahead by r1 points, by `figure` on the test set it is behind by
    `test_set` points. stage: itc or itm; way: what is retrieved."""

    better: str
    worse: str
    stage: str
    way: str
    figure: str
    r1: float
    test_set: float

    def __str__(self) -> str:
        return (
            f"{self.way} retrieval by {self.stage.upper()}: {self.better} is ahead of {self.worse} by {self.r1:.2f} "
            f"points of R@1, and behind by {self.test_set:.2f} of {FIGURES[self.figure]} on the test set"
        )


def flips(runs: Sequence[FinishedRun]) -> list[Flip]:
    """Of every two runs that were evaluated on a test set (`run.test_set`)."""
    return [flip for one, other in combinations(runs, 2) for flip in _of_two(one, other)]


def _of_two(one: FinishedRun, other: FinishedRun) -> Iterator[Flip]:
    for stage, way, figure in product(("itc", "itm"), ("image", "text"), FIGURES):
        by_r1 = _difference(one.figures, other.figures, f"retrieval / {stage} / annotation / {way} / r1")
        by_set = _difference(one.figures, other.figures, f"retrieval / at_r / {stage} / test_set / {way} / {figure}")
        if by_r1 * by_set < 0:
            better, worse = (one, other) if by_r1 > 0 else (other, one)
            yield Flip(str(better.folder), str(worse.folder), stage, way, figure, abs(by_r1), abs(by_set))


def _difference(one: Mapping[str, float], other: Mapping[str, float], name: str) -> float:
    """0 where a run lacks the figure."""
    return one[name] - other[name] if name in one and name in other else 0.0
