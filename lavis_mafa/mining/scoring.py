"""P(match) of many pairs, kept in a ConnectionStore part by part; a killed run continues after the last part."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from lavis_mafa.common.progress import progress_bar
from lavis_mafa.core.connections import ConnectionStore

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]
Pairs = tuple[Ints, Ints]  # records (K,), caption rows (K,)

PART = 4096  # pairs between two parts on disk
MERGE_EVERY = 32  # parts


def scored(
    store: ConnectionStore,
    score: Callable[[Iterable[Pairs]], Iterator[Floats]],
    record_K: Ints,
    text_row_K: Ints,
    what: str,
) -> Floats:
    """P(match) of many pairs; the store scores each once. Sorted by record, a part has few images.

    Args:
        store: keeps scores, part by part.
        score: parts of the pairs → their P(match), part by part.
        record_K, text_row_K: (K,) the pairs.
        what: they are, for the progress bar.

    Returns:
        (K,) P(match).

    Raises:
        ValueError: a score that is no probability.
    """
    p_K = np.empty(len(record_K), np.float32)
    for part in _parts(len(p_K)):
        p_K[part] = store.lookup(record_K[part], text_row_K[part])
    missing_K = np.isnan(p_K)
    parts = [part for part in _parts(len(p_K)) if missing_K[part].any()]
    found = score((record_K[part][missing_K[part]], text_row_K[part][missing_K[part]]) for part in parts)
    with progress_bar(total=len(p_K), initial=int((~missing_K).sum()), desc=what, unit="pair", unit_scale=True) as bar:
        for number, (part, p_L) in enumerate(zip(parts, found, strict=True), 1):
            at_L = part.start + np.flatnonzero(missing_K[part])
            p_K[at_L] = _probabilities(p_L)
            store.add(record_K[at_L], text_row_K[at_L], p_K[at_L])
            store.flush()
            if number % MERGE_EVERY == 0:
                _tidy(store)
            bar.update(len(at_L))
    if parts:
        _tidy(store)
    return p_K


def _parts(n: int) -> Iterator[slice]:
    return (slice(start, start + PART) for start in range(0, n, PART))


def _tidy(store: ConnectionStore) -> None:
    """One run of many parts; commit deletes what the merge before last replaced."""
    store.merge()
    store.commit()


def _probabilities(p_K: Floats) -> Floats:
    if not bool(((p_K >= 0) & (p_K <= 1)).all()):  # NaN fails too
        raise ValueError(
            "the judge returned scores that are not probabilities: check its weights, or use float32 or bfloat16"
        )
    return np.asarray(p_K, np.float32)
