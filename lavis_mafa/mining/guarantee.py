"""A bound on P(match) whose precision is guaranteed, from labels of a stratified sample.

Precision above a bound is the mean label of the candidates above it. Each bound is tested by an exact binomial test
(Clopper-Pearson), and the tests are corrected for looking at several of them: learn then test (Angelopoulos et al.,
arXiv 2110.01052). Tested in tests/mining/test_guarantee.py and, on draws, by projects/mafa/mine/guarantee.py.

Symbols: H strata above a bound, from the surest down; `size` candidates, `labels` of them labelled, `matches` true.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom

ALPHA = 0.05  # chance that a bound is chosen whose precision is below the target
POWER = 0.8  # chance of success that `labels_needed` asks for
MOST = 1_000_000  # labels that nobody makes

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Labels:
    """What was labelled of every stratum. Candidates of the strata 0 … s are those with P(match) > above_S[s]."""

    above_S: NDArray[np.float32]
    size_S: Ints
    labels_S: Ints
    matches_S: Ints


@dataclass(frozen=True)
class Certified:
    """stratum: the last one that is connected, None where no bound qualifies. bounds: how many were tested.

    at_least: with 95 % confidence the precision is at least that; 0 without a bound.
    """

    stratum: int | None
    bounds: int
    at_least: float = 0.0


def certify(labels: Labels, target: float, seed: int, alpha: float = ALPHA) -> Certified:
    """The loosest bound whose precision is at least a target, with confidence 1 - alpha over the draw of the labels.

    The bounds are the edges of the strata at which the labels could show it at all, which their number decides and not
    what they say. From the strictest down each is tested at alpha over their number, and at what the bounds before it,
    rejected in a row, leave (the fallback procedure: Wiens, Pharmaceutical Statistics 2003), so that the chance of any
    false claim is at most alpha.

    Args:
        labels: by stratum.
        target: precision, in (0, 1).
        seed: of the thinning of labels that were sampled more densely.
        alpha: the chance of a false claim.
    """
    chosen, tests = loosest(labels, target, seed, alpha)
    if chosen is None:
        return Certified(None, tests)
    edge, level = chosen
    return Certified(edge - 1, tests, _lower_limit(labels, edge, seed, level))


def loosest(labels: Labels, target: float, seed: int, alpha: float = ALPHA) -> tuple[tuple[int, float] | None, int]:
    """What `certify` finds, as a place among the strata.

    Args:
        labels, target, seed, alpha: see certify.

    Returns:
        ((strata above the bound, the level it was tested at) or None, the number of tests).
    """
    edges = range(1, len(labels.size_S) + 1)
    tested = [edge for edge in edges if _smallest_p_value(labels, edge, target) <= alpha / len(edges)]
    chosen, level = None, 0.0
    for edge in tested:
        level += alpha / len(tested)
        if p_value(labels, edge, target, seed) <= level:
            chosen = edge, level
        else:
            level = 0.0
    return chosen, len(tested)


def p_value(labels: Labels, edge: int, target: float, seed: int) -> float:
    """Chance of as many matches among the labels of the first strata, if their precision were the target.

    Labels of strata that were sampled more densely are thinned at random, until the kept ones are nearly in proportion
    to the strata. What is left of a disproportion is taken at its worst: `_worst_mean`. A sum of independent labels
    with different chances has a lighter tail than a binomial one of their mean (Hoeffding, Annals of Mathematical
    Statistics 1956, theorem 4); labels drawn without replacement a lighter one still.

    Args:
        labels: by stratum.
        edge: how many strata, from the surest down.
        target: precision, in (0, 1).
        seed: of the thinning.
    """
    kept_H, mean = _kept(*_design(labels, edge), target)
    rng = np.random.default_rng(seed)
    misses_H = labels.labels_S[:edge] - labels.matches_S[:edge]
    found, total = int(rng.hypergeometric(labels.matches_S[:edge], misses_H, kept_H).sum()), int(kept_H.sum())
    return float(binom.sf(found - 1, total, mean)) if found - 1 >= total * mean else 1.0


def labels_needed(precision: float, target: float, tests: int) -> int | None:
    """How many labels above a bound show a target with a chance of 80 %.

    Args:
        precision: of the bound.
        target: precision to show, in (0, 1).
        tests: how many bounds share alpha.

    Returns:
        None where no number does.
    """
    if precision <= target:
        return None
    number = 10
    while number < MOST:
        most_misses = int(binom.ppf(ALPHA / max(tests, 1), number, 1 - target)) - 1  # P(misses <= that) is below alpha
        if most_misses >= 0 and binom.cdf(most_misses, number, 1 - precision) >= POWER:
            return number
        number = number * 11 // 10 + 1
    return None


def _smallest_p_value(labels: Labels, edge: int, target: float) -> float:
    """If every label were a match."""
    kept_H, mean = _kept(*_design(labels, edge), target)
    return float(mean ** kept_H.sum())


def _design(labels: Labels, edge: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    return tuple(labels.size_S[:edge].tolist()), tuple(labels.labels_S[:edge].tolist())


@lru_cache(maxsize=1024)
def _kept(sizes: tuple[int, ...], labels: tuple[int, ...], target: float) -> tuple[Ints, float]:
    """How many labels of every stratum are kept, and their worst mean at the target; chosen without a look at them."""
    size_H, labels_H = np.array(sizes), np.array(labels)
    best, least = (np.zeros_like(labels_H), 1.0), 0.0
    for rate in np.unique(labels_H[labels_H > 0] / size_H[labels_H > 0]):
        kept_H = np.minimum(labels_H, np.floor(size_H * rate + 1e-9).astype(np.int64))
        if kept_H.any():
            mean = _worst_mean(kept_H, size_H, target)
            evidence = kept_H.sum() * np.log(mean) if mean > 0 else -np.inf
            if evidence < least:
                best, least = (kept_H, mean), evidence
    return best


def _worst_mean(kept_H: Ints, size_H: Ints, target: float) -> float:
    """The largest mean of the kept labels that a precision of `target` allows: matches fill the strata in which a match
    shows up among the labels the most often (a fractional knapsack)."""
    left, total = target * size_H.sum(), 0.0
    for stratum in np.argsort(-kept_H / size_H, kind="stable"):
        share = min(1.0, left / size_H[stratum])
        total += share * kept_H[stratum]
        left -= share * size_H[stratum]
    return float(min(total / kept_H.sum(), 1.0))


def _lower_limit(labels: Labels, edge: int, seed: int, alpha: float) -> float:
    """The largest target that would still be shown, to a thousandth."""
    low, high = 0.0, 1.0
    while high - low > 1e-3:
        middle = (low + high) / 2
        if p_value(labels, edge, middle, seed) <= alpha:
            low = middle
        else:
            high = middle
    return low
