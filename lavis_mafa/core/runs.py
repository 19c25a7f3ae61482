"""A run: pairs by key with scores, in one array of 32-bit words. Tested in tests/core/test_connections.py."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lavis_mafa.common.artifacts import atomic_write

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Run:
    """P pairs, each key once, ascending: P int64 keys, then P float32 scores, 12 bytes a pair, in memory or mapped."""

    words: NDArray[np.uint32]  # (3P,)

    @classmethod
    def empty(cls, pairs: int) -> Run:
        """A run to be filled in place."""
        return cls(np.empty(3 * pairs, dtype="<u4"))

    @classmethod
    def of(cls, key_P: Ints, score_P: Floats) -> Run:
        """The run of any pairs; of equal keys the first is kept."""
        key_U, first_U = np.unique(key_P, return_index=True)
        run = cls.empty(len(key_U))
        run.key_P[:], run.score_P[:] = key_U, score_P[first_U]
        return run

    @classmethod
    def load(cls, path: Path) -> Run:
        """Map a run file into memory.

        Raises:
            ValueError: it is damaged.
        """
        words = np.load(path, mmap_mode="r")  # the header holds the length: a short file raises
        if words.dtype != np.dtype("<u4") or words.ndim != 1 or len(words) % 3:
            raise ValueError(f"{words.dtype} array of shape {words.shape} is not a table of scores")
        return cls(words)

    def save(self, path: Path) -> None:
        """Write the run file, whole or not at all."""
        with atomic_write(path) as file:
            np.save(file, self.words)

    def __len__(self) -> int:
        return len(self.words) // 3

    @property
    def key_P(self) -> Ints:
        """(P,) int64, ascending, a view."""
        return self.words[: 2 * len(self)].view("<i8")

    @property
    def score_P(self) -> Floats:
        """(P,) float32, a view."""
        return self.words[2 * len(self) :].view("<f4")

    def find(self, key_K: Ints) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
        """The position where each key is or would be inserted, and whether it is there."""
        at_K = np.searchsorted(self.key_P, key_K)
        if not len(self):
            return at_K, np.zeros(len(key_K), dtype=np.bool_)
        return at_K, self.key_P[np.minimum(at_K, len(self) - 1)] == key_K


def united(runs: Iterable[Run]) -> Run:
    """Merge several runs by sorting; of equal keys the first is kept."""
    keys, scores = zip(*((run.key_P, run.score_P) for run in [Run.empty(0), *runs]), strict=True)
    return Run.of(np.concatenate(keys), np.concatenate(scores))


def merged(old: Run, new: Run) -> Run:
    """Merge two runs without sorting the old one again; of equal keys the old one is kept."""
    at_P, known_P = old.find(new.key_P)
    fresh_P, fresh = ~known_P, int((~known_P).sum())
    run = Run.empty(len(old) + fresh)
    from_new_P = np.zeros(len(run), dtype=np.bool_)
    from_new_P[at_P[fresh_P] + np.arange(fresh)] = True
    run.key_P[from_new_P], run.score_P[from_new_P] = new.key_P[fresh_P], new.score_P[fresh_P]
    run.key_P[~from_new_P], run.score_P[~from_new_P] = old.key_P, old.score_P
    return run
