import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import beta, binom

from lavis_mafa.mining.guarantee import Labels, certify, labels_needed, p_value
from lavis_mafa.mining.strata import around_target, draw


def labels(*rows):
    """(candidates, labels, matches) of every stratum."""
    size_S, labels_S, matches_S = np.array(rows).T
    return Labels(-np.arange(len(rows), dtype=np.float32), size_S, labels_S, matches_S)


def test_one_stratum_is_tested_by_clopper_pearson():
    one = labels((1000, 60, 58))
    assert p_value(one, 1, 0.9, 0) == pytest.approx(binom.sf(57, 60, 0.9))
    level = 0.05
    found = certify(one, 0.9, 0, alpha=level)
    assert found.stratum is None  # P(58 or more of 60) is 0.053
    found = certify(labels((1000, 61, 59)), 0.9, 0, alpha=level)
    assert found.stratum == 0 and found.at_least == pytest.approx(beta.ppf(level, 59, 3), abs=2e-3)


def test_strata_in_proportion_are_tested_together():
    together = labels((300, 30, 30), (300, 30, 28))
    assert p_value(together, 2, 0.9, 0) == pytest.approx(binom.sf(57, 60, 0.9))


def test_a_disproportion_is_thinned_and_taken_at_its_worst():
    """The first stratum is labelled three times as densely: of its 30 labels 10 are kept."""
    thinned = labels((100, 30, 30), (300, 30, 30))
    assert p_value(thinned, 2, 0.9, 0) == pytest.approx(0.9**40)
    uneven = labels((100, 10, 10), (205, 20, 20))  # what is kept cannot be quite in proportion
    assert 0.9**30 < p_value(uneven, 2, 0.9, 0) < 0.91**30


def test_a_stratum_without_labels_counts_as_mismatches():
    assert p_value(labels((900, 100, 100), (100, 0, 0)), 2, 0.9, 0) == 1  # the rest may be all that is wrong
    assert p_value(labels((900, 100, 100), (100, 0, 0)), 2, 0.8, 0) == pytest.approx((800 / 900) ** 100)


def test_the_loosest_bound_that_is_shown_is_chosen():
    found = certify(labels((500, 50, 50), (500, 50, 49), (500, 50, 49), (500, 50, 25)), 0.9, 0)
    assert (found.stratum, found.bounds) == (2, 4)
    assert 0.9 < found.at_least < 148 / 150


def test_a_bound_that_fails_takes_its_share_of_the_error_with_it():
    """Two bounds at 2.5 % each; a second one that needs more is shown only where the first one passes."""
    second = binom.sf(105, 111, 0.9)
    assert 0.025 < second < 0.05
    good, bad = labels((500, 51, 51), (600, 60, 55)), labels((500, 51, 46), (600, 60, 60))
    assert p_value(good, 2, 0.9, 0) == pytest.approx(p_value(bad, 2, 0.9, 0)) == pytest.approx(second, rel=0.2)
    assert certify(good, 0.9, 0).stratum == 1 and certify(bad, 0.9, 0).stratum is None


def test_too_few_labels_test_no_bound():
    assert certify(labels((500, 5, 5), (500, 5, 5)), 0.9, 0) == certify(labels((500, 0, 0)), 0.9, 0)
    assert certify(labels((500, 5, 5)), 0.9, 0).bounds == 0


@settings(deadline=None, max_examples=80)
@given(
    st.lists(st.tuples(st.integers(1, 400), st.integers(0, 60), st.floats(0, 1)), min_size=1, max_size=5),
    st.floats(0.1, 0.95),
)
def test_more_matches_are_more_evidence(rows, target):
    few = [(size, min(count, size), int(min(count, size) * share)) for size, count, share in rows]
    more = [(size, count, count) for size, count, _ in few]
    for edge in range(1, len(rows) + 1):
        p, best = (p_value(labels(*each), edge, target, 0) for each in (few, more))
        assert 0 <= best <= p <= 1


def test_the_test_holds_its_level_at_the_boundary_exactly():
    """Two strata whose mean precision is just the target: summed over all outcomes, it rejects in at most 5 %."""
    sizes, counts = (400, 200), (24, 12)
    for first in (0.8, 0.85, 0.9, 0.95):
        second = (0.85 * 600 - 400 * first) / 200
        if not 0 <= second <= 1:
            continue
        chance = sum(
            binom.pmf(a, 24, first) * binom.pmf(b, 12, second)
            for a, b in itertools.product(range(25), range(13))
            if p_value(labels((sizes[0], counts[0], a), (sizes[1], counts[1], b)), 2, 0.85, 0) <= 0.05
        )
        assert chance <= 0.05


def test_the_guarantee_fails_in_at_most_one_of_twenty_draws():
    """The target is just above the precision of a bound, the worst case. 400 draws; 5 % and three deviations."""
    rng = np.random.default_rng(0)
    chance_K = np.repeat([0.99, 0.5, 0.02], [800, 800, 2400])
    true_K = rng.random(4000) < chance_K
    p_K = (chance_K - np.arange(4000) * 1e-6).astype(np.float32)
    strata = around_target(p_K, 0.9, 200)
    precision_S = [true_K[strata.stratum_K <= number].mean() for number in range(len(strata.size_S))]
    target = precision_S[7] + 1e-3
    found = [certify(_labelled(strata, true_K, seed), target, seed).stratum for seed in range(400)]
    chosen = [precision_S[each] for each in found if each is not None]
    assert len(chosen) > 300 and min(chosen) < target
    assert sum(each < target for each in chosen) / 400 <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 400)


def _labelled(strata, true_K, seed):
    at_L = draw(strata, seed).at_L
    stratum_L, n = strata.stratum_K[at_L], len(strata.size_S)
    counted = np.bincount(stratum_L, minlength=n), np.bincount(stratum_L, true_K[at_L], n).astype(int)
    return Labels(strata.above_S, strata.size_S, *counted)


def test_labels_needed():
    assert labels_needed(0.9, 0.9, 1) is None and labels_needed(0.5, 0.9, 1) is None
    few, many, corrected = labels_needed(0.99, 0.9, 1), labels_needed(0.92, 0.9, 1), labels_needed(0.99, 0.9, 8)
    assert few < corrected < many
    misses = np.arange(few + 1)
    passes = misses[binom.cdf(misses, few, 0.1) <= 0.05]
    assert binom.cdf(passes.max(), few, 0.01) >= 0.8
