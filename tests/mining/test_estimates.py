import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lavis_mafa.mining.estimates import Powered
from lavis_mafa.mining.strata import around_target, draw


def world(seed, n=4000, power=1.0):
    rng = np.random.default_rng(seed)
    p_K = rng.beta(0.4, 2, n)
    return p_K.astype(np.float32), (rng.random(n) < p_K**power).astype(float)


def powered(p_K, true_K, seed, size=200):
    strata = around_target(p_K, 0.9, size)
    at_L = draw(strata, seed).at_L
    return Powered(p_K.astype(float), strata.stratum_K, at_L, true_K[at_L])


def test_by_hand():
    """One stratum of ten, four labelled: 3 of 4 match; the scores say 5 of 10, and do not vary among the labels."""
    p_K = np.full(10, 0.5)
    found = Powered(p_K, np.zeros(10, int), np.arange(4), np.array([1.0, 1, 1, 0])).total(np.ones(10))
    assert found.value == pytest.approx(7.5)
    half = 3.182446 * np.sqrt(100 * (1 - 4 / 10) * 0.25 / 4)  # Student's t of three degrees; variance 0.25 in both ways
    assert (found.low, found.high) == pytest.approx((7.5 - half, 7.5 + half), rel=1e-5)


def test_scores_that_are_right_make_it_exact():
    true_K = np.array([1.0, 0, 1, 0, 1, 0, 0, 0])
    found = Powered(true_K, np.zeros(8, int), np.array([0, 1, 2, 3]), true_K[:4]).total(np.ones(8))
    assert found.value == found.low == found.high == 3  # four labels alone would say 4


def test_everything_labelled_leaves_no_error():
    p_K, true_K = world(0, n=60)
    found = Powered(p_K.astype(float), np.zeros(60, int), np.arange(60), true_K)
    total = found.total(np.ones(60))
    assert total.low == total.high == pytest.approx(true_K.sum())
    top = (p_K > 0.5).astype(float)
    ratio = found.ratio(top, np.ones(60))
    assert ratio.low == ratio.high == pytest.approx(true_K[p_K > 0.5].sum() / true_K.sum())


def test_no_match_has_no_ratio():
    assert Powered(np.zeros(4), np.zeros(4, int), np.arange(2), np.zeros(2)).ratio(np.ones(4), np.ones(4)) is None


@pytest.mark.parametrize("power", [1.0, 0.6, 1.5], ids=["calibrated", "scores too low", "scores too high"])
def test_intervals_hold_the_truth_in_nineteen_of_twenty_draws(power):
    """400 draws of 200 labels; 95 % less three deviations."""
    p_K, true_K = world(3, power=power)
    every, top = np.ones(len(p_K)), (p_K > 0.6).astype(float)
    truths = true_K.sum(), (top * true_K).sum() / true_K.sum()
    inside = np.zeros(2)
    for seed in range(400):
        sample = powered(p_K, true_K, seed)
        for number, (found, truth) in enumerate(
            zip((sample.total(every), sample.ratio(top, every)), truths, strict=True)
        ):
            inside[number] += found.low <= truth <= found.high
    assert (inside / 400 >= 0.95 - 3 * np.sqrt(0.05 * 0.95 / 400)).all()


def test_good_scores_make_an_interval_narrower():
    p_K, true_K = world(5)
    strata = around_target(p_K, 0.9, 200)
    at_L = draw(strata, 0).at_L
    blind = Powered(np.full(len(p_K), p_K.mean(), float), strata.stratum_K, at_L, true_K[at_L])
    sharp = Powered(true_K * 0.98 + 0.01, strata.stratum_K, at_L, true_K[at_L])
    widths = [found.total(np.ones(len(p_K))).high - found.total(np.ones(len(p_K))).low for found in (sharp, blind)]
    assert widths[0] < widths[1] / 2


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 10_000), st.integers(1, 200), st.integers(0, 60))
def test_an_interval_holds_its_value(seed, n, size):
    p_K, true_K = world(seed, n)
    found = powered(p_K, true_K, seed, size)
    if not len(found.at_L):
        return
    total = found.total(np.ones(n))
    assert total.low <= total.value <= total.high and np.isfinite([total.low, total.high]).all()
    cut = total.within(0, n)
    assert 0 <= cut.low <= cut.value <= cut.high <= n
