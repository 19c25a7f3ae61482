"""Intervals by drawing images anew, against what is known of a mean and of pairs that belong together."""

from __future__ import annotations

import numpy as np
import pytest

from lavis_mafa.core.intervals import bootstrap_intervals


def test_the_interval_of_a_mean_is_that_of_its_standard_error() -> None:
    x_P = np.random.default_rng(1).normal(size=400)
    low, high = bootstrap_intervals(lambda at: {"mean": x_P[at].mean()}, np.arange(400), draws=2000)["mean"]
    assert (low, high) == pytest.approx(x_P.mean() + np.array([-1.96, 1.96]) * x_P.std() / 20, abs=0.01)


def test_pairs_of_one_image_are_drawn_together() -> None:
    """Of 20 images with 20 equal pairs each there are 20 observations, not 400."""
    value_G = np.random.default_rng(2).normal(size=20)
    group_P = np.random.default_rng(3).permutation(np.repeat(np.arange(20), 20))
    x_P = value_G[group_P]
    low, high = bootstrap_intervals(lambda at: {"mean": x_P[at].mean()}, group_P, draws=1000)["mean"]
    assert high - low == pytest.approx(2 * 1.96 * value_G.std() / np.sqrt(20), rel=0.15)


def test_a_figure_that_most_draws_lack_has_none_and_a_seed_gives_the_same() -> None:
    def figures(at: np.ndarray) -> dict[str, float | None]:
        return {"never": None, "often": float(at.mean()), "seldom": 1.0 if (at == 0).sum() > 2 else None}

    found = bootstrap_intervals(figures, np.arange(30))
    assert found["never"] is None and found["seldom"] is None
    assert found["often"] == bootstrap_intervals(figures, np.arange(30))["often"]
