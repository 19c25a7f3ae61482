"""Which candidates people label: strata of P(match), and how many pairs of each. Tested in tests/mining/test_strata.py.

Symbols: K candidates, S strata from the surest down, L drawn pairs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

BINS = 10  # strata of by_tenths: equal steps of P(match)
TESTED = 8
EXPECTED = 0.5  # they reach to at least this many times the matches that P(match) adds up to, should it be too low
ABOVE = 0.8  # share of the labels in these strata; the rest tells what is below them

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]


@dataclass(frozen=True)
class Strata:
    """A partition of the candidates. Those of the strata 0 … s are the candidates with P(match) > above_S[s].

    stratum_K: of each candidate; above_S: descending; size_S: candidates; count_S: how many to label.
    """

    stratum_K: Ints
    above_S: Floats
    size_S: Ints
    count_S: Ints


@dataclass(frozen=True)
class Drawn:
    """A random sample: places, how many candidates each stands for, and the lower edge of its stratum."""

    at_L: Ints
    weight_L: Doubles
    above_L: Floats


def by_tenths(p_K: Floats, size: int) -> Strata:
    """Ten steps of P(match), as many pairs from each; small strata leave theirs to larger ones."""
    step_K = BINS - 1 - np.minimum((p_K * BINS).astype(int), BINS - 1)
    step_S, stratum_K, size_S = np.unique(step_K, return_inverse=True, return_counts=True)
    count_S, left = np.zeros_like(size_S), size
    for number, stratum in enumerate(_smallest_first(size_S)):
        count_S[stratum] = min(size_S[stratum], left // (len(step_S) - number))
        left -= count_S[stratum]
    return Strata(stratum_K.ravel(), _edges(p_K, stratum_K.ravel(), len(step_S)), size_S, count_S)


def around_target(p_K: Floats, target: float, size: int) -> Strata:
    """Strata whose edges are candidates for a bound of this precision, labelled in proportion to their size.

    So the labels above any edge are a proportional sample of what is above it. They reach to where a calibrated
    P(match) puts the target; a fifth of the labels tells how many matches are below.
    """
    descending_K = np.sort(p_K)[::-1].astype(float)
    mean_K = descending_K.cumsum() / np.arange(1, len(p_K) + 1)
    reach = max((mean_K >= target).sum(), EXPECTED * descending_K.sum(), size)
    ranks = [reach * part / TESTED for part in range(1, TESTED + 1)] + [2 * reach, 4 * reach]
    bound = np.unique([descending_K[int(rank)] for rank in ranks if rank < len(p_K)])  # ascending
    stratum_K = len(bound) - np.searchsorted(bound, p_K.astype(float), side="left")
    _, stratum_K, size_S = np.unique(stratum_K, return_inverse=True, return_counts=True)
    stratum_K = stratum_K.ravel()
    in_reach_S = size_S.cumsum() <= reach
    spread_S = np.bincount(stratum_K, np.sqrt(np.clip(p_K, 0.01, 0.99) * (1 - np.clip(p_K, 0.01, 0.99))))
    share = size if in_reach_S.all() else round(size * ABOVE)
    count_S = _shared(np.where(in_reach_S, size_S, 0), share, size_S)
    count_S += _shared(np.where(in_reach_S, 0, spread_S), size - int(count_S.sum()), size_S)
    return Strata(stratum_K, _edges(p_K, stratum_K, len(size_S)), size_S, count_S)


def draw(strata: Strata, seed: int) -> Drawn:
    """The pairs to label, shuffled, so that a position does not hint at the label."""
    rng = np.random.default_rng(seed)
    chosen = [np.empty(0, np.int64)]
    for stratum in _smallest_first(strata.size_S):
        if count := strata.count_S[stratum]:
            chosen.append(np.sort(rng.permutation(np.flatnonzero(strata.stratum_K == stratum))[:count]))
    at_L = np.concatenate(chosen)
    at_L = at_L[rng.permutation(len(at_L))] if len(at_L) else at_L
    stratum_L = strata.stratum_K[at_L]
    return Drawn(at_L, (strata.size_S / np.maximum(strata.count_S, 1))[stratum_L], strata.above_S[stratum_L])


def _smallest_first(size_S: Ints) -> Ints:
    """Of equal ones the least sure first."""
    order_S: Ints = np.lexsort((-np.arange(len(size_S)), size_S))
    return order_S


def _edges(p_K: Floats, stratum_K: Ints, strata: int) -> Floats:
    lowest_S = np.full(strata, np.inf, np.float32)
    np.minimum.at(lowest_S, stratum_K, p_K)
    return np.nextafter(lowest_S, np.float32(-1))  # what is above it begins with the lowest


def _shared(weight_S: NDArray[np.float64] | Ints, total: int, most_S: Ints) -> Ints:
    """`total` in proportion to the weights, whole numbers (largest remainders), none above most_S."""
    if total <= 0 or not weight_S.sum():
        return np.zeros(len(weight_S), np.int64)
    exact_S = total * weight_S / weight_S.sum()
    count_S = np.floor(exact_S).astype(np.int64)
    rest = total - int(count_S.sum())
    count_S[np.argsort(-(exact_S - count_S), kind="stable")[:rest]] += 1
    return np.minimum(count_S, most_S)
