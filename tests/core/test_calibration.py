"""Calibration against curves that are known, steps worked out by hand, and labels that must not leak."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import expit, logit

from lavis_mafa.core.calibration import (
    CURVES,
    FOLDS,
    Calibration,
    Isotonic,
    Temperature,
    expected_calibration_error,
    fold_of,
    reliability,
)


def drawn(n: int, slope: float = 2.0, bias: float = -1.0, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(scores, matches, image ids) where P(match) is σ(slope · logit(score) + bias)."""
    rng = np.random.default_rng(seed)
    score_K = rng.uniform(0.02, 0.98, n)
    return score_K, rng.uniform(size=n) < expit(slope * logit(score_K) + bias), rng.integers(1 << 60, size=n)


def test_a_temperature_and_a_bias_are_found_again() -> None:
    score_K, match_K, _ = drawn(20_000)
    curve = Temperature.fitted(score_K, match_K)
    assert (curve.slope, curve.bias) == pytest.approx((2.0, -1.0), abs=0.1)
    assert curve(np.array([0.0, 1.0])).tolist() == pytest.approx([0, 1], abs=1e-4)


def test_labels_that_a_bound_separates_give_a_finite_curve() -> None:
    curve = Temperature.fitted(np.array([0.1, 0.2, 0.7, 0.9]), np.array([False, False, True, True]))
    assert np.isfinite([curve.slope, curve.bias]).all() and curve.slope > 0


def test_steps_are_those_of_pooling_what_decreases() -> None:
    curve = Isotonic.fitted(np.array([0.4, 0.1, 0.3, 0.2]), np.array([True, False, False, True]))
    assert (curve.score, curve.p) == (pytest.approx([0.1, 0.25, 0.4]), pytest.approx([0, 0.5, 1]))
    assert curve(np.array([0.0, 0.1, 0.175, 0.25, 0.4, 0.9])).tolist() == pytest.approx([0, 0, 0.25, 0.5, 1, 1])
    tied = Isotonic.fitted(np.array([0.5, 0.5, 0.8]), np.array([True, False, True]))
    assert tied.p == pytest.approx([0.5, 1])


@pytest.mark.parametrize("method", ["temperature", "isotonic"])
def test_a_weight_counts_as_so_many_pairs(method: str) -> None:
    score_K, match_K, _ = drawn(300)
    weight_K = np.where(score_K > 0.5, 3, 1)
    weighted = CURVES[method].fitted(score_K, match_K, weight_K.astype(float))
    repeated = CURVES[method].fitted(np.repeat(score_K, weight_K), np.repeat(match_K, weight_K))
    asked = np.linspace(0.05, 0.95, 9)
    assert weighted(asked) == pytest.approx(repeated(asked), abs=0.01)  # labels are drawn in by their number (Platt)
    assert np.abs(weighted(asked) - CURVES[method].fitted(score_K, match_K)(asked)).max() > 0.001
    error = expected_calibration_error(score_K, match_K, weight_K=weight_K)
    assert error == pytest.approx(
        expected_calibration_error(np.repeat(score_K, weight_K), np.repeat(match_K, weight_K))
    )


@pytest.mark.parametrize("method", ["temperature", "isotonic"])
def test_an_image_is_judged_by_a_curve_that_did_not_see_its_labels(method: str) -> None:
    score_K, match_K, image_K = drawn(3000)
    fold_K = fold_of(image_K)
    one = Calibration.fitted(score_K, match_K, image_K, method)
    other = Calibration.fitted(score_K, np.where(fold_K == 2, score_K < 0.5, match_K), image_K, method)
    assert [a == b for a, b in zip(one.curves, other.curves, strict=True)] == [fold == 2 for fold in range(FOLDS)]
    p_K = one(score_K, image_K)
    for fold in range(FOLDS):
        np.testing.assert_array_equal(p_K[fold_K == fold], one.curves[fold](score_K[fold_K == fold]).clip(0, 1))
    assert expected_calibration_error(p_K, match_K) < 0.05 < expected_calibration_error(score_K, match_K)
    assert Calibration.from_json(one.as_json()) == one


def test_what_cannot_be_calibrated_is_refused() -> None:
    score_K, match_K, image_K = drawn(400)
    with pytest.raises(ValueError, match="matches and mismatches of several images"):
        Calibration.fitted(score_K, np.ones(400, bool), image_K, "isotonic")
    with pytest.raises(ValueError, match="ranks matches below mismatches"):
        Calibration.fitted(1 - score_K, match_K, image_K, "temperature")
    with pytest.raises(ValueError, match="1 curves instead of 5"):
        Calibration.from_json([{"slope": 1, "bias": 0, "method": "temperature"}])


def test_the_error_is_the_mean_distance_from_the_share_of_matches() -> None:
    p_K, match_K = [0.05, 0.05, 0.95, 0.95, 1.0], [0, 1, 1, 1, 1]
    steps = reliability(p_K, match_K, bins=10)
    assert steps["pairs"].tolist() == [2, 3] and steps["matches"].tolist() == [0.5, 1]
    assert expected_calibration_error(p_K, match_K, bins=10) == pytest.approx((2 * 0.45 + 3 * (1 - 2.9 / 3)) / 5)
