"""Retrieval and classification metrics in NumPy. Tested in tests/core/test_metrics.py.

sim_QC: rows are the Q queries, columns the C candidates, larger is more similar; positive_QC says which match. With
images as queries that is text retrieval (TR in papers), with texts image retrieval (IR). A query without positives is
left out. Ties count against the positive, so that a collapsed model scores 0, not 100.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.floating]
Bools = NDArray[np.bool_]


def query_figures(sim_QC: Floats, positive_QC: Bools) -> Floats:
    """(4, Q'): place of the first positive, from 0; R-precision; mAP@R; R, of every query with a positive.

    For matrices that come block by block; `summary` of the blocks side by side gives the figures. R is the query's
    number of positives. R-precision is the share of positives among the first R; mAP@R the mean over these R places of
    the precision so far where a positive stands, else 0 (Musgrave et al., arXiv 2003.08505, section 4.1; used by ECCV
    Caption, arXiv 2204.03359).

    Example:
        >>> sim_TI = np.array([[0.9, 0.1], [0.6, 0.4]])  # of image retrieval: a query a row
        >>> recall, _ = summary(query_figures(sim_TI, np.eye(2, dtype=bool)))
        >>> recall["r1"]
        50.0
    """
    known_Q = positive_QC.any(axis=1)
    sim_QC, positive_QC = sim_QC[known_Q], positive_QC[known_Q]
    assert not np.isnan(sim_QC).any(), "a similarity is NaN"
    R_Q = positive_QC.sum(axis=1)
    at_r_2Q = _at_r(*_top(sim_QC, positive_QC, R_Q), R_Q)
    figures_4Q: Floats = np.concatenate([_first_rank(sim_QC, positive_QC)[None], at_r_2Q, R_Q[None]])
    return figures_4Q


def summary(figures_4Q: Floats) -> tuple[dict[str, float], dict[str, float]]:
    """({r1, r5, r10}, {r_precision, map_at_r}) in percent; the second is empty where every query has one positive."""
    rank_Q, r_precision_Q, map_at_r_Q, R_Q = figures_4Q
    if not len(rank_Q):
        raise ValueError("no query has a match: check the positives")
    recalls = {f"r{k}": 100 * float((rank_Q < k).mean()) for k in (1, 5, 10)}
    if (R_Q == 1).all():
        return recalls, {}
    return recalls, {"r_precision": 100 * float(r_precision_Q.mean()), "map_at_r": 100 * float(map_at_r_Q.mean())}


def false_negatives(
    plan: Iterable[ArrayLike],
    matches: Callable[[NDArray[np.int64]], Bools],
    known: Callable[[NDArray[np.int64]], Bools] | None = None,
) -> NDArray[np.int64]:
    """False negatives in each batch of a plan: pairs that match though neither own nor known positives.

    Args:
        plan: batches of record numbers (B,).
        matches: batch → (B, B) bool, the truth: the image of record batch[i] matches the caption of record batch[t].
        known: batch → (B, B) bool, pairs that are no negatives (same image, same caption); None: the own pairs alone.

    Returns:
        A count a batch, of its B·(B-1) pairs: each direction is a pair of its own.
    """
    counts = []
    for batch in plan:
        batch_B = np.asarray(batch, dtype=np.int64)
        false_BB = np.array(matches(batch_B), dtype=np.bool_)
        np.fill_diagonal(false_BB, False)
        if known is not None:
            false_BB &= ~known(batch_B)
        counts.append(int(false_BB.sum()))
    return np.array(counts, dtype=np.int64)


def roc_auc(label_K: ArrayLike, score_K: ArrayLike) -> float:
    """Area under the ROC curve in [0, 1]: P(a positive scores above a negative), ties half (Mann-Whitney U)."""
    positive_K, score_K = _labelled(label_K, score_K)
    _, group_K, size_G = np.unique(score_K, return_inverse=True, return_counts=True)
    rank_K = (np.cumsum(size_G) - (size_G - 1) / 2)[group_K]  # from 1; tied scores share their mean rank
    P, K = int(positive_K.sum()), len(positive_K)
    return float((rank_K[positive_K].sum() - P * (P + 1) / 2) / (P * (K - P)))


def average_precision(label_K: ArrayLike, score_K: ArrayLike) -> float:
    """Average precision in [0, 1]: Σ (recall_n - recall_{n-1}) · precision_n over distinct scores, from the top."""
    positive_K, score_K = _labelled(label_K, score_K)
    _, group_K = np.unique(-score_K, return_inverse=True)
    hits_G, size_G = np.bincount(group_K, weights=positive_K), np.bincount(group_K)
    precision_G = np.cumsum(hits_G) / np.cumsum(size_G)
    return float((precision_G * hits_G).sum() / hits_G.sum())


def _labelled(label_K: ArrayLike, score_K: ArrayLike) -> tuple[Bools, NDArray[np.float64]]:
    positive_K, score_K = np.asarray(label_K, dtype=np.bool_), np.asarray(score_K, dtype=np.float64)
    assert positive_K.shape == score_K.shape and positive_K.ndim == 1, "one score for each label"
    assert not np.isnan(score_K).any(), "a score is NaN"
    if positive_K.all() or not positive_K.any():
        raise ValueError("AUC and average precision need at least a positive and a negative")
    return positive_K, score_K


def _first_rank(sim_QC: Floats, positive_QC: Bools) -> NDArray[np.int64]:
    """Place of each query's best positive, from 0: negatives at least as similar stand before it."""
    best_Q1 = sim_QC.max(axis=1, keepdims=True, where=positive_QC, initial=-np.inf)
    rank_Q: NDArray[np.int64] = ((sim_QC >= best_Q1) & ~positive_QC).sum(axis=1)
    return rank_Q


def _top(sim_QC: Floats, positive_QC: Bools, R_Q: NDArray[np.int64]) -> tuple[Floats, Bools]:
    """The max(R) best columns of each query, ties before positives; sorting whole rows would take most of the time."""
    most = int(R_Q.max(initial=1))
    if 2 * most >= sim_QC.shape[1]:
        return sim_QC, positive_QC
    cost_QC = -sim_QC
    np.nextafter(cost_QC, np.inf, out=cost_QC, where=positive_QC, dtype=cost_QC.dtype)  # of all columns it is slow
    best_QR = np.argpartition(cost_QC, most - 1, axis=1)[:, :most]
    return np.take_along_axis(sim_QC, best_QR, 1), np.take_along_axis(positive_QC, best_QR, 1)


def _at_r(sim_QC: Floats, positive_QC: Bools, R_Q: NDArray[np.int64]) -> Floats:
    """(2, Q) R-precision and average precision at R of each query, whose R positives are among the columns, or not."""
    order_QC = np.lexsort((positive_QC, -sim_QC), axis=1)  # the last key leads; among ties, negatives first
    hit_QC = np.take_along_axis(positive_QC, order_QC, axis=1)
    R_Q1 = R_Q[:, None]
    place_C = np.arange(1, hit_QC.shape[1] + 1)
    hit_QC &= place_C <= R_Q1
    precision_QC = np.cumsum(hit_QC, axis=1) / place_C
    at_r_2Q: Floats = np.stack([hit_QC.sum(axis=1), (precision_QC * hit_QC).sum(axis=1)]) / R_Q1.T
    return at_r_2Q
