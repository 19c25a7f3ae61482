"""Runs that R@1 orders otherwise than a test set of several matches."""

from __future__ import annotations

from pathlib import Path

from lavis_mafa.reports.comparison import FinishedRun
from lavis_mafa.reports.flips import flips


def run(name: str, r1: float, r_precision: float | None, map_at_r: float | None) -> FinishedRun:
    figures = {"retrieval / itc / annotation / image / r1": r1}
    for figure, value in (("r_precision", r_precision), ("map_at_r", map_at_r)):
        if value is not None:
            figures[f"retrieval / at_r / itc / test_set / image / {figure}"] = value
    return FinishedRun(Path(name), 0, {}, figures)


def test_conclusions_that_flip_are_listed() -> None:
    (flip,) = flips([run("A", 48, 31, 19), run("B", 50, 30, 20), run("C", 40, 20, 10)])
    assert (flip.better, flip.worse, flip.figure, flip.r1, flip.test_set) == ("B", "A", "r_precision", 2, 1)
    assert str(flip).startswith(
        "image retrieval by ITC: B is ahead of A by 2.00 points of R@1, and behind by 1.00 of R-p"
    )


def test_runs_without_a_test_set_flip_nothing() -> None:
    assert flips([run("A", 48, None, None), run("B", 50, 30, 20)]) == []
