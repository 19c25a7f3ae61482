import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lavis_mafa.mining.strata import around_target, by_tenths, draw

shares = st.floats(0, 1, width=32)


def test_a_sample_by_tenths_takes_from_every_stratum_and_stands_for_all():
    p_K = np.concatenate([np.full(1000, 0.05), np.full(40, 0.55), np.full(3, 0.95)]).astype(np.float32)
    drawn = draw(by_tenths(p_K, 30), seed=1)
    assert len(drawn.at_L) == len(set(drawn.at_L.tolist())) == 30
    taken, stands = {}, {}
    for p in (0.05, 0.55, 0.95):
        here = np.isclose(p_K[drawn.at_L], p)
        taken[p], stands[p] = int(here.sum()), drawn.weight_L[here].sum()
    assert taken == {0.05: 14, 0.55: 13, 0.95: 3}
    assert stands == pytest.approx({0.05: 1000, 0.55: 40, 0.95: 3})
    np.testing.assert_array_equal(drawn.at_L, draw(by_tenths(p_K, 30), seed=1).at_L)


@pytest.mark.parametrize(("pairs", "size", "taken"), [(0, 10, 0), (3, 10, 3), (5, 0, 0)])
def test_few_pairs_are_all_taken(pairs, size, taken):
    drawn = draw(by_tenths(np.linspace(0, 1, pairs, dtype=np.float32), size), seed=0)
    assert len(drawn.at_L) == len(drawn.weight_L) == taken


def test_strata_around_a_target_by_hand():
    """Of 1,000 evenly spread scores the surest 400 have a mean of 0.8: eight strata of 50, then 400 and the rest."""
    p_K = (1 - np.arange(1000) / 1000).astype(np.float32)
    strata = around_target(p_K, 0.8, 200)
    assert strata.size_S.tolist() == pytest.approx([50] * 8 + [400, 200], abs=2)
    assert strata.count_S.tolist()[:8] == [20] * 8 and strata.count_S.sum() == 200
    np.testing.assert_allclose(strata.above_S[7], 0.6, atol=2e-3)


def test_scores_that_are_too_low_are_sampled_as_far_as_their_matches_reach():
    """None reaches the target; half of the 300 matches that they add up to are 150."""
    strata = around_target(np.linspace(0.6, 0, 1000, dtype=np.float32), 0.9, 100)
    assert strata.size_S[:8].sum() == pytest.approx(150, abs=1)


def test_equal_scores_stay_together():
    strata = around_target(np.repeat(np.float32([0.95, 0]), [400, 600]), 0.9, 100)
    assert strata.size_S.tolist() == [400, 600] and strata.count_S[0] >= 80


@settings(deadline=None, max_examples=100)
@given(st.lists(shares, min_size=1, max_size=300), st.floats(0.05, 0.95), st.integers(0, 120))
def test_strata_are_a_partition_and_their_edges_are_bounds(p, target, size):
    p_K = np.array(p, np.float32)
    for strata in (around_target(p_K, target, size), by_tenths(p_K, size)):
        assert strata.size_S.sum() == len(p_K) and (strata.size_S > 0).all()
        assert (np.diff(strata.above_S) < 0).all()
        for number, above in enumerate(strata.above_S):
            assert np.array_equal(p_K > above, strata.stratum_K <= number)
        assert strata.count_S.sum() <= size and (strata.count_S <= strata.size_S).all()
        drawn = draw(strata, 7)
        assert len(drawn.at_L) == len(set(drawn.at_L.tolist())) == strata.count_S.sum()
        assert np.array_equal(np.bincount(strata.stratum_K[drawn.at_L], minlength=len(strata.size_S)), strata.count_S)
        assert np.array_equal(drawn.above_L, strata.above_S[strata.stratum_K[drawn.at_L]])


def test_labels_of_the_tested_strata_are_in_proportion():
    p_K = np.random.default_rng(0).beta(0.3, 3, 20_000).astype(np.float32)
    strata = around_target(p_K, 0.6, 200)
    rate_S = strata.count_S[:8] / strata.size_S[:8]
    assert rate_S.max() / rate_S.min() < 1.1
    assert strata.count_S[:8].sum() == 160
