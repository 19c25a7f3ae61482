"""Totals over all candidates from a few labels and every score: prediction-powered inference.

Angelopoulos et al., PPI++ (arXiv 2311.01453), stratified: the scores give the total, the labels its error. Tested in
tests/mining/test_estimates.py. Symbols: K candidates, L labelled ones, S strata.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t

Ints = NDArray[np.int64]
Doubles = NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A figure with its interval of 95 %."""

    value: float
    low: float
    high: float

    def within(self, least: float, most: float) -> Estimate:
        """Cut to what the figure can be."""
        return Estimate(*(float(np.clip(each, least, most)) for each in (self.value, self.low, self.high)))

    def plain(self) -> dict[str, float]:
        return asdict(self)


@dataclass(frozen=True)
class Powered:
    """Labels beside scores: `p_K` P(match), `stratum_K`, places `at_L` and labels `true_L` of a stratified sample.

    Every stratum with a candidate has a label; what has none is left out of the totals by `of`.
    """

    p_K: Doubles
    stratum_K: Ints
    at_L: Ints
    true_L: Doubles

    def total(self, z_K: Doubles) -> Estimate:
        """Σ_k z_k · (k is a match)."""
        value, half = self._value(z_K), self._half(z_K)
        return Estimate(value, value - half, value + half)

    def ratio(self, z_K: Doubles, whole_K: Doubles) -> Estimate | None:
        """Σ z_k · match over Σ whole_k · match, by the delta method; None where there seems to be no match."""
        whole = self._value(whole_K)
        if whole <= 0:
            return None
        ratio = self._value(z_K) / whole
        half = self._half(z_K - ratio * whole_K) / whole
        return Estimate(ratio, ratio - half, ratio + half)

    def _value(self, z_K: Doubles) -> float:
        """λ times what the scores say, and what the labels say beside it."""
        tuning = self._tuning(z_K)
        rest_L = z_K[self.at_L] * (self.true_L - tuning * self.p_K[self.at_L])
        size_S = self._counts()[1]
        return float(tuning * (z_K * self.p_K).sum() + (size_S * self._means(rest_L)).sum())

    def _half(self, z_K: Doubles) -> float:
        """Half of the interval: of Student's t, as the labels of a stratum may be few (Satterthwaite's degrees).

        A stratum whose labels agree still varies: at least as labels drawn by P(match) do.
        """
        labels_S, size_S = self._counts()
        rest_L = z_K[self.at_L] * (self.true_L - self._tuning(z_K) * self.p_K[self.at_L])
        sampled_S = (self._means(rest_L**2) - self._means(rest_L) ** 2) * labels_S / np.maximum(labels_S - 1, 1)
        drawn_S = np.bincount(self.stratum_K, z_K**2 * self.p_K * (1 - self.p_K), len(size_S)) / size_S
        variance_S = np.maximum(sampled_S, drawn_S)
        left_S = 1 - labels_S / size_S  # a stratum that is labelled as a whole has no error
        error_S = size_S**2 * left_S * variance_S / np.maximum(labels_S, 1)
        if not error_S.any():
            return 0.0
        degrees = error_S.sum() ** 2 / (error_S**2 / np.maximum(labels_S - 1, 1)).sum()
        return float(t.ppf(0.975, degrees) * np.sqrt(error_S.sum()))

    def _tuning(self, z_K: Doubles) -> float:
        """λ in [0, 1]: how far the scores are to be trusted, the least variance of the total."""
        labels_S, size_S = self._counts()
        y_L, f_L = z_K[self.at_L] * self.true_L, z_K[self.at_L] * self.p_K[self.at_L]
        weight_S = size_S**2 / np.maximum(labels_S, 1)
        joint = (weight_S * (self._means(y_L * f_L) - self._means(y_L) * self._means(f_L))).sum()
        own = (weight_S * (self._means(f_L**2) - self._means(f_L) ** 2)).sum()
        return float(np.clip(joint / own, 0, 1)) if own > 0 else 0.0

    def _counts(self) -> tuple[Ints, Ints]:
        """Labels and candidates of every stratum."""
        strata = int(self.stratum_K.max()) + 1
        stratum_L = self.stratum_K[self.at_L]
        return np.bincount(stratum_L, minlength=strata), np.bincount(self.stratum_K, minlength=strata)

    def _means(self, value_L: Doubles) -> Doubles:
        """Of the labelled pairs of every stratum; 0 for a stratum without any."""
        labels_S, _ = self._counts()
        sums_S = np.bincount(self.stratum_K[self.at_L], value_L, len(labels_S))
        means_S: Doubles = sums_S / np.maximum(labels_S, 1)
        return means_S
