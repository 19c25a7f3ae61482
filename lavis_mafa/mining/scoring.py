"""P(match) of many pairs, kept in a ConnectionStore part by part: a killed run goes on after the last part."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from lavis_mafa.core.connections import ConnectionStore

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]
Score = Callable[[Ints, Ints], Floats]  # records (K,), caption rows (K,) → P(match) (K,)

PART = 4096  # pairs between two parts on disk
MERGE_EVERY = 32  # parts


def scored(store: ConnectionStore, score: Score, record_K: Ints, text_row_K: Ints, what: str) -> Floats:
    """(K,) P(match), each pair scored once in the life of the store; pairs sorted by record come in few images a part.

    Raises ValueError: a score that is no probability.
    """
    p_K = np.empty(len(record_K), np.float32)
    new = 0
    with tqdm(total=len(record_K), desc=what, unit="pair", unit_scale=True) as bar:
        for start in range(0, len(record_K), PART):
            part = slice(start, start + PART)
            record, row = record_K[part], text_row_K[part]
            p = store.lookup(record, row)
            missing = np.isnan(p)
            if missing.any():
                p[missing] = _probabilities(score(record[missing], row[missing]))
                store.add(record[missing], row[missing], p[missing])
                store.flush()
                new += 1
                if new % MERGE_EVERY == 0:
                    _tidy(store)
            p_K[part] = p
            bar.update(len(p))
    if new:
        _tidy(store)
    return p_K


def _tidy(store: ConnectionStore) -> None:
    """One run of many parts; commit deletes what the merge before last replaced."""
    store.merge()
    store.commit()


def _probabilities(p_K: Floats) -> Floats:
    if not bool(((p_K >= 0) & (p_K <= 1)).all()):  # NaN fails too
        raise ValueError("Con-D gave scores that are no probabilities: check its weights, or take float32 or bfloat16")
    return np.asarray(p_K, np.float32)
