"""What `mine` found, against pairs that people judged (evaluation/judged_pairs.py).

Tested in tests/jobs/test_mine_flickr8k.py.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lavis_mafa.core.intervals import bootstrap_intervals
from lavis_mafa.core.metrics import average_precision, roc_auc
from lavis_mafa.core.pairs import CONNECTION
from lavis_mafa.evaluation.judged_pairs import JudgedPairs
from lavis_mafa.mining import results
from lavis_mafa.mining.corpus import Corpus, packed, places
from lavis_mafa.mining.engine import Mined
from lavis_mafa.mining.review import Labelled

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Judged:
    """Judged pairs that mining could find: in key_A, packed (mining/corpus.py), each pair once.

    at_P: the place of each of the P judged pairs in key_A; -1 where its caption is not among the mined ones, or where
    the pair is annotated and mining knows it.
    """

    pairs: JudgedPairs
    key_A: Ints
    at_P: Ints

    @classmethod
    def of(cls, pairs: JudgedPairs, corpus: Corpus) -> Judged:
        text_P = corpus.places(pairs.captions)[pairs.pairs["text"]]
        key_P = packed(pairs.record_I[pairs.pairs["image"]], np.maximum(text_P, 0))
        asked_P = (text_P >= 0) & ~np.isin(key_P, packed(corpus.own_record_P, corpus.own_text_P))
        key_A = np.unique(key_P[asked_P])
        return cls(pairs, key_A, np.where(asked_P, np.searchsorted(key_A, key_P), -1))


def against_judgments(judged: Judged, mined: Mined) -> dict[str, dict[str, object]]:
    """{choice of judged pairs: figures}, choices as in JudgedPairs.selections.

    auc, average_precision: of P(match) over all judged pairs, candidates or not. precision, recall: of the connections,
    recall over all judged matches. intervals_95: of these four, by drawing images anew. base_rate: the share of matches
    among the pairs judged. candidates: the same over the judged pairs among the candidates; coverage is the share of
    the judged matches that are. left_out: judged pairs that mining could not find, see Judged.
    """
    at_K, inside_A = places(packed(mined.candidates.record_K, mined.candidates.text_K), judged.key_A)
    connected_A = np.zeros(len(judged.key_A), np.bool_)
    connected_A[inside_A] = mined.verdict_K[at_K[inside_A]] == CONNECTION
    label_P, image_P = (judged.pairs.pairs[name].to_numpy() for name in ("label", "image"))
    found = {}
    for name, chosen_P in judged.pairs.selections().items():
        rows = np.flatnonzero(chosen_P & (judged.at_P >= 0))
        at = judged.at_P[rows]
        figures = figures_with_intervals(label_P[rows], mined.asked_p_A[at], connected_A[at], image_P[rows])
        within = inside_A[at]
        labelled = Labelled(at_K[at[within]], label_P[rows[within]], np.ones(int(within.sum())), int((~within).sum()))
        among: dict[str, object] = {**results.quality(mined, labelled)}
        among["auc"] = _auc(label_P[rows[within]], mined.asked_p_A[at[within]])
        among["coverage"] = float(label_P[rows[within]].sum() / label_P[rows].sum()) if label_P[rows].any() else None
        found[name] = {**figures, "left_out": int(chosen_P.sum()) - len(rows), "candidates": among}
    return found


def figures_with_intervals(label_P: Bools, p_P: Floats, connected_P: Bools, image_P: Ints) -> dict[str, object]:
    """auc, average_precision, precision and recall with their intervals; pairs, matches and base rate."""

    def figures(at: Ints) -> dict[str, float | None]:
        label, connected = label_P[at], connected_P[at]
        hits = float((label & connected).sum())
        both = label.any() and not label.all()
        return {
            "auc": _auc(label, p_P[at]),
            "average_precision": average_precision(label, p_P[at]) if both else None,
            "precision": hits / float(connected.sum()) if connected.any() else None,
            "recall": hits / float(label.sum()) if label.any() else None,
        }

    return {
        "pairs": len(label_P),
        "matches": int(label_P.sum()),
        "base_rate": float(label_P.mean()) if len(label_P) else None,
        **figures(np.arange(len(label_P))),
        "intervals_95": bootstrap_intervals(figures, image_P) if len(label_P) else {},
    }


def _auc(label: Bools, p: Floats) -> float | None:
    return roc_auc(label, p) if label.any() and not label.all() else None
