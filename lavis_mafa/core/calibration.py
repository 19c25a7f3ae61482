"""Scores made probabilities, on labelled pairs, and how far probabilities are off.

A calibration is cross-fitted by image: the pairs of an image are judged by a curve that its own labels had no part in.
Tested in tests/core/test_calibration.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Literal, cast

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import isotonic_regression, minimize
from scipy.special import expit, logit

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

FOLDS = 5
LEAST = 1e-6  # of a score, and of its distance from 1: beyond, a logit says nothing
BINS = 15  # of the reliability diagram, as in Guo et al.


def features(score_K: ArrayLike) -> Floats:
    """Logits of scores in [0, 1]."""
    found: Floats = logit(np.clip(np.asarray(score_K, np.float64), LEAST, 1 - LEAST))
    return found


@dataclass(frozen=True)
class Temperature:
    """P = σ(slope · logit(score) + bias): a temperature of 1 / slope, a bias for the share of matches (Platt 1999)."""

    slope: float
    bias: float
    method: Literal["temperature"] = "temperature"

    @classmethod
    def fitted(cls, score_K: Floats, match_K: Bools, weight_K: Floats | None = None) -> Temperature:
        slope_1, bias = fit_logistic(features(score_K)[:, None], match_K, weight_K)
        return cls(float(slope_1[0]), bias)

    def __call__(self, score_K: Floats) -> Floats:
        found: Floats = expit(self.slope * features(score_K) + self.bias)
        return found


@dataclass(frozen=True)
class Isotonic:
    """The non-decreasing steps of least squares (Zadrozny and Elkan 2002), linear between their middles."""

    score: list[float]
    p: list[float]
    method: Literal["isotonic"] = "isotonic"

    @classmethod
    def fitted(cls, score_K: Floats, match_K: Bools, weight_K: Floats | None = None) -> Isotonic:
        weight_K = np.ones(len(score_K)) if weight_K is None else weight_K
        score_U, place_K = np.unique(score_K, return_inverse=True)
        count_U = np.bincount(place_K, weights=weight_K)
        share_U = np.bincount(place_K, weights=weight_K * match_K) / count_U
        steps = isotonic_regression(share_U, weights=count_U)
        blocks = list(zip(steps.blocks[:-1], steps.blocks[1:], strict=True))
        middle = [float(np.average(score_U[low:high], weights=count_U[low:high])) for low, high in blocks]
        return cls(middle, [float(steps.x[low]) for low, _ in blocks])

    def __call__(self, score_K: Floats) -> Floats:
        found: Floats = np.interp(score_K, self.score, self.p)
        return found


@dataclass(frozen=True)
class Logistic:
    """P = σ(weights · logits of F scores + bias): several judges joined by a logistic regression."""

    weights: list[float]
    bias: float
    method: Literal["logistic"] = "logistic"

    @classmethod
    def fitted(cls, score_KF: Floats, match_K: Bools, weight_K: Floats | None = None) -> Logistic:
        slope_F, bias = fit_logistic(features(score_KF), match_K, weight_K)
        return cls(slope_F.tolist(), bias)

    def __call__(self, score_KF: Floats) -> Floats:
        found: Floats = expit(features(score_KF) @ np.array(self.weights) + self.bias)
        return found


Curve = Temperature | Isotonic | Logistic
CURVES: Mapping[str, type[Temperature] | type[Isotonic] | type[Logistic]] = {
    "temperature": Temperature,
    "isotonic": Isotonic,
    "logistic": Logistic,
}


def fit_logistic(x_KF: Floats, match_K: Bools, weight_K: Floats | None = None) -> tuple[Floats, float]:
    """(slopes (F,), bias) of the logistic regression of greatest likelihood, each label weighted by weight_K.

    Labels are taken as Platt does (1999, section 2.2), a little inside 0 and 1, so that separable ones have a solution.
    """
    matches, others = int(match_K.sum()), int((~match_K).sum())
    target_K = np.where(match_K, (matches + 1) / (matches + 2), 1 / (others + 2))
    mean_F, scale_F = x_KF.mean(axis=0), x_KF.std(axis=0) + 1e-12
    weight_K = np.ones(len(x_KF)) if weight_K is None else weight_K
    scaled_KF = np.column_stack([(x_KF - mean_F) / scale_F, np.ones(len(x_KF))])

    def loss(w_F: Floats) -> tuple[float, Floats]:
        z_K = scaled_KF @ w_F
        gradient_F: Floats = scaled_KF.T @ (weight_K * (expit(z_K) - target_K)) / weight_K.sum()
        return float(np.average(np.logaddexp(0, z_K) - target_K * z_K, weights=weight_K)), gradient_F

    w_F = minimize(loss, np.zeros(scaled_KF.shape[1]), jac=True, method="BFGS").x
    slope_F = w_F[:-1] / scale_F
    return slope_F, float(w_F[-1] - slope_F @ mean_F)


def fold_of(image_id_K: ArrayLike) -> Ints:
    """(K,) which of the curves judges an image."""
    fold_K: Ints = np.asarray(image_id_K, np.int64) % FOLDS
    return fold_K


@dataclass(frozen=True)
class Calibration:
    """One curve a fold, over scores (K,), or (K, F) where several judges are joined.

    Curve f saw no label of the images of fold f. An image without labels has a fold, too.
    """

    curves: tuple[Curve, ...]

    @classmethod
    def fitted(
        cls,
        score_K: ArrayLike,
        match_K: ArrayLike,
        image_id_K: ArrayLike,
        method: str,
        weight_K: Floats | None = None,
    ) -> Calibration:
        """Curves fitted on labelled pairs; every pair is judged by one that its own image's labels had no part in.

        Args:
            score_K: (K,) scores of a judge, each in [0, 1].
            match_K: (K,) bool or 0/1, what people say of the pairs.
            image_id_K: (K,) the image of each pair, which decides its fold.
            method: a key of CURVES.
            weight_K: (K,) how many pairs each stands for, above 0; None: one each.

        Raises:
            ValueError: a curve would see labels of one kind alone, or the judge ranks matches below others.
        """
        score_K, match_K = np.asarray(score_K, np.float64), np.asarray(match_K, np.bool_)
        fold_K, curves = fold_of(image_id_K), []
        for fold in range(FOLDS):
            seen_K = fold_K != fold
            if len(np.unique(match_K[seen_K])) < 2:
                raise ValueError("a calibration needs matches and mismatches of several images: label more pairs")
            curve = CURVES[method].fitted(
                score_K[seen_K], match_K[seen_K], None if weight_K is None else weight_K[seen_K]
            )
            if isinstance(curve, Temperature) and curve.slope <= 0:
                raise ValueError("the judge ranks matches below mismatches on these labels: it cannot be calibrated")
            curves.append(curve)
        return cls(tuple(curves))

    def __call__(self, score_K: ArrayLike, image_id_K: ArrayLike) -> Floats:
        """(K,) P(match)."""
        score_K, fold_K = np.asarray(score_K, np.float64), fold_of(image_id_K)
        p_K = np.empty(len(score_K))
        for fold, curve in enumerate(self.curves):
            p_K[fold_K == fold] = curve(score_K[fold_K == fold])
        return p_K.clip(0, 1)

    def as_json(self) -> list[dict[str, object]]:
        return [asdict(curve) for curve in self.curves]

    @classmethod
    def from_json(cls, curves: Sequence[Mapping[str, object]]) -> Calibration:
        """Raises KeyError, TypeError or ValueError: no calibration."""
        if len(curves) != FOLDS:
            raise ValueError(f"{len(curves)} curves instead of {FOLDS}")
        kinds = [cast("Callable[..., Curve]", CURVES[str(curve["method"])]) for curve in curves]
        return cls(tuple(kind(**curve) for kind, curve in zip(kinds, curves, strict=True)))


def reliability(
    p_K: ArrayLike, match_K: ArrayLike, bins: int = BINS, weight_K: ArrayLike | None = None
) -> pd.DataFrame:
    """By equal steps of P(match): its mean, the share of matches, and the pairs; steps without a pair are left out.

    Args:
        p_K: (K,) P(match) in [0, 1].
        match_K: (K,) bool or 0/1, whether the pair matches.
        bins: how many steps [0, 1] is cut into.
        weight_K: (K,) how many pairs each stands for, above 0; None: one each.

    Returns:
        A row a step.
    """
    p_K, match_K = np.asarray(p_K, np.float64), np.asarray(match_K, np.float64)
    pairs_K = np.ones(len(p_K)) if weight_K is None else np.asarray(weight_K, np.float64)
    columns = {"p": pairs_K * p_K, "matches": pairs_K * match_K, "pairs": pairs_K}
    summed = pd.DataFrame(columns).groupby(np.minimum((p_K * bins).astype(int), bins - 1)).sum().rename_axis("bin")
    return summed.assign(p=summed["p"] / summed["pairs"], matches=summed["matches"] / summed["pairs"])


def expected_calibration_error(
    p_K: ArrayLike, match_K: ArrayLike, bins: int = BINS, weight_K: ArrayLike | None = None
) -> float:
    """ECE in [0, 1]: the mean over pairs of |mean P(match) - share of matches| in the pair's step.

    Source: Guo et al. 2017, arXiv 1706.04599, equation 3.

    Args:
        p_K: (K,) P(match) in [0, 1].
        match_K: (K,) bool or 0/1, whether the pair matches.
        bins: how many steps [0, 1] is cut into.
        weight_K: (K,) how many pairs each stands for, above 0; None: one each.

    Example:
        >>> round(float(expected_calibration_error([0.9, 0.9, 0.1, 0.1], [1, 1, 0, 1])), 6)
        0.25
    """
    steps = reliability(p_K, match_K, bins, weight_K)
    return float(((steps["p"] - steps["matches"]).abs() * steps["pairs"]).sum() / steps["pairs"].sum())
