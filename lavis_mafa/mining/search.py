"""The k nearest items of every anchor; an item may be several vectors and counts by the best of them (BLIP-2).

Symbols: A anchors of P vectors, B items of Q vectors, D embedding. Tested in tests/mining/test_search.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import starmap
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lavis_mafa.common.artifacts import atomic_write, reading
from lavis_mafa.common.progress import progress
from lavis_mafa.core.neighbors import NeighborIndex, float32

SHARD = 1 << 18  # vectors indexed at a time: 268 MB of 256 dimensions, up to twice that while FAISS builds
CHUNK = 4096  # query vectors searched at a time
FOUND = 1 << 22  # neighbours held at a time: some 300 MB
EXACT_BLOCK = 8192  # vectors compared at a time by the exact check

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]
AnyInts = NDArray[np.integer]  # int32 or int64
Vectors = NDArray[np.floating]  # (A, P, D) float16 or float32, a memory map


@dataclass(frozen=True)
class Known:
    """Pairs that are no candidates: sorted keys anchor · B + item."""

    key_K: Ints
    items: int

    @classmethod
    def of(cls, anchor_K: Ints, item_K: Ints, items: int) -> Known:
        return cls(np.sort(anchor_K * items + item_K), items)

    def counts(self, anchor_a: Ints) -> Ints:
        """(a,) known items of each of these anchors, which follow one another."""
        start, stop = int(anchor_a[0]), int(anchor_a[-1]) + 1
        low, high = np.searchsorted(self.key_K, [start * self.items, stop * self.items])
        found: Ints = np.bincount(self.key_K[low:high] // self.items - start, minlength=stop - start)
        return found

    def mask(self, anchor_A: Ints, item_An: Ints) -> NDArray[np.bool_]:
        if not len(self.key_K):
            return np.zeros(item_An.shape, np.bool_)
        key_An = anchor_A[:, None] * self.items + item_An
        at = np.searchsorted(self.key_K, key_An).clip(max=len(self.key_K) - 1)
        found: NDArray[np.bool_] = (self.key_K[at] == key_An) & (item_An >= 0)
        return found


@dataclass(frozen=True)
class Nearest:
    """item_Ak (A, k) by falling similarity_Ak; -1 and -inf where an anchor has fewer."""

    item_Ak: NDArray[np.int32]
    similarity_Ak: Floats


@dataclass(frozen=True)
class ShardSearch:
    """Finds every anchor's k nearest in one shard of the items, known ones left out."""

    anchors_APD: Vectors
    k: int
    known: Known
    backend: str
    nprobe: int
    name: str

    def __call__(self, start: int, items_BQD: Vectors) -> Nearest:
        """items_BQD: the items start, start + 1, … of all."""
        (n_anchors, width, dim), depth = self.anchors_APD.shape, items_BQD.shape[1]
        index, best = self._index(items_BQD.reshape(-1, dim)), _nothing(n_anchors, self.k)
        for chunk in progress(_chunks(n_anchors, max(1, CHUNK // width)), desc=f"neighbours {self.name}", leave=False):
            for rows, wanted in _parts(chunk, self.k + self.known.counts(chunk), FOUND // width):
                item, similarity = _search(index, float32(self.anchors_APD[rows]), depth, wanted)
                item = np.where(item >= 0, item + start, -1)
                similarity[self.known.mask(rows, item)] = -np.inf
                _merge(best, rows, item, similarity)
        return best

    def _index(self, keys: Vectors) -> NeighborIndex:
        return NeighborIndex(keys, backend=self.backend, nprobe=self.nprobe)


Shards = Iterable[tuple[int, Vectors]]  # the first item's number, the items
SearchShards = Callable[[ShardSearch, Shards], Iterator[Nearest]]


def nearest_items(
    anchors_APD: Vectors,
    items_BQD: Vectors,
    k: int,
    known: Known,
    path: Path,
    backend: str = "auto",
    shard: int = SHARD,
    search_shards: SearchShards = starmap,
    nprobe: int = 64,
) -> Nearest:
    """The items most similar to each anchor, known ones left out: similarity is the maximum over both sides' vectors.

    Exact where the index is (flat, torch): a search that finds too few distinct items is repeated with twice the depth.
    Goes through the items shard by shard and keeps the best so far, so that a killed search resumes.

    Args:
        anchors_APD: (A, P, D) P vectors an anchor, of unit length.
        items_BQD: (B, Q, D) Q vectors an item.
        k: items an anchor.
        known: pairs to leave out.
        path: where the best so far is kept.
        backend: see core.neighbors.
        shard: items that are searched at a time.
        search_shards: results in the order of the shards; the default searches one after the other, here.
        nprobe: cells that an IVF index visits.
    """
    n_anchors, (n_items, depth, _) = len(anchors_APD), items_BQD.shape
    k, per_shard = min(k, n_items), max(1, shard // depth)
    best, done = _reopened(path, n_anchors, k)
    search = ShardSearch(anchors_APD, k, known, backend, nprobe, path.stem.split("_")[0])
    starts = range(done, n_items, per_shard)
    shards = ((start, items_BQD[start : start + per_shard]) for start in starts)
    for start, found in zip(starts, search_shards(search, shards), strict=True):
        for rows in _chunks(n_anchors, CHUNK):
            _merge(best, rows, found.item_Ak[rows], found.similarity_Ak[rows])
        _save(path, best, min(start + per_shard, n_items))
    return best


def _chunks(n: int, size: int) -> list[Ints]:
    return [np.arange(low, min(low + size, n)) for low in range(0, n, size)]


def _parts(rows: Ints, wanted_a: Ints, most: int) -> Iterator[tuple[Ints, int]]:
    """The rows, and how many neighbours they want; in parts where together they want more than `most`.

    An image of 100,000 captions wants 100,000 neighbours, of which the others of its chunk need hardly any.
    """
    if len(rows) * int(wanted_a.max()) <= most:
        yield rows, int(wanted_a.max())
        return
    order = np.argsort(wanted_a, kind="stable")
    rows, wanted_a = rows[order], wanted_a[order]
    while len(rows):
        fits = np.arange(1, len(rows) + 1) * wanted_a <= most
        n = max(1, int(fits.sum()))  # rising, as both factors are
        yield rows[:n], int(wanted_a[n - 1])
        rows, wanted_a = rows[n:], wanted_a[n:]


def _nothing(n_anchors: int, k: int) -> Nearest:
    return Nearest(np.full((n_anchors, k), -1, np.int32), np.full((n_anchors, k), -np.inf, np.float32))


def _search(index: NeighborIndex, anchors_aPD: Floats, depth: int, wanted: int) -> tuple[Ints, Floats]:
    """At least `wanted` distinct items an anchor, where the index has them, each with its largest similarity.

    Each vector of an anchor is searched: an item may be far from the first vector and near to the second.
    """
    n_anchors, _, dim = anchors_aPD.shape
    fetch = min(wanted, index.n)
    while True:
        vector, similarity = index.search(anchors_aPD.reshape(-1, dim), fetch)
        item = np.where(vector >= 0, vector // depth, -1)
        exhausted = (vector < 0).any(axis=1)  # IVF has no more in the cells it probes
        short = ~exhausted & (_count_distinct(item) < min(wanted, index.n // depth))
        if fetch == index.n or not short.any():
            return _distinct(item.reshape(n_anchors, -1), similarity.reshape(n_anchors, -1))
        fetch = min(2 * fetch, index.n)


def _count_distinct(item_An: Ints) -> Ints:
    """(A,) different items of a row, -1 not counted."""
    item_An = np.sort(item_An, axis=1)
    new = np.diff(item_An, axis=1, prepend=-1) > 0
    count: Ints = new.sum(axis=1)
    return count


def _distinct(item_An: Ints, similarity_An: Floats) -> tuple[Ints, Floats]:
    """Each item of a row once, with its largest similarity; the other places become -1 and -inf."""
    order = np.lexsort((-similarity_An, item_An), axis=1)
    item, similarity = np.take_along_axis(item_An, order, 1), np.take_along_axis(similarity_An, order, 1)
    repeated = np.zeros(item.shape, np.bool_)
    repeated[:, 1:] = item[:, 1:] == item[:, :-1]
    repeated |= item < 0
    return np.where(repeated, -1, item), np.where(repeated, -np.inf, similarity).astype(np.float32)


def _merge(best: Nearest, rows: Ints, item_an: AnyInts, similarity_an: Floats) -> None:
    """The best k of what a row has and of what was found now; ties go to the lower item."""
    item = np.concatenate([best.item_Ak[rows], item_an], axis=1)
    similarity = np.concatenate([best.similarity_Ak[rows], similarity_an], axis=1)
    order = np.lexsort((item, -similarity), axis=1)[:, : best.item_Ak.shape[1]]
    similarity = np.take_along_axis(similarity, order, 1)
    best.item_Ak[rows] = np.where(np.isfinite(similarity), np.take_along_axis(item, order, 1), -1)
    best.similarity_Ak[rows] = similarity


def _reopened(path: Path, n_anchors: int, k: int) -> tuple[Nearest, int]:
    if not path.exists():
        return _nothing(n_anchors, k), 0
    with reading(path, "search state", "Delete it, and the search begins anew."), np.load(path) as saved:
        return Nearest(saved["item"], saved["similarity"]), int(saved["done"])


def _save(path: Path, best: Nearest, done: int) -> None:
    with atomic_write(path) as file:
        np.savez(file, item=best.item_Ak, similarity=best.similarity_Ak, done=done)


def recall_of_candidates(
    anchors_APD: Vectors, items_BQD: Vectors, found: Nearest, known: Known, sample: int = 256, seed: int = 0
) -> float:
    """Share of the exact top k that a search found, over a sample of the anchors (all pairs compared, in float32).

    A found item counts if its exact similarity reaches that of the exact k-th: of items that tie any may be listed.

    Args:
        anchors_APD, items_BQD: what was searched.
        found: by nearest_items.
        known: pairs that were left out.
        sample: anchors.
        seed: of the sample.
    """
    anchor_a = np.sort(np.random.default_rng(seed).permutation(len(anchors_APD))[:sample])
    exact = _exact(anchors_APD, items_BQD, anchor_a, found.item_Ak.shape[1], known)
    item_ak = found.item_Ak[anchor_a].astype(np.int64)
    row, place = np.nonzero(item_ak >= 0)
    similarity = similarity_of_pairs(anchors_APD, items_BQD, anchor_a[row], item_ak[row, place])
    hits = (similarity >= exact.similarity_Ak[row, -1] - 1e-6).sum()
    possible = np.isfinite(exact.similarity_Ak).sum()
    return float(hits / possible) if possible else 1.0


def _exact(anchors_APD: Vectors, items_BQD: Vectors, anchor_a: Ints, k: int, known: Known) -> Nearest:
    """The exact k nearest of some anchors, a block of the items at a time."""
    anchors_aPD, rows = float32(anchors_APD[anchor_a]), np.arange(len(anchor_a))
    best = _nothing(len(rows), k)
    block = max(1, EXACT_BLOCK // items_BQD.shape[1])
    for low in range(0, len(items_BQD), block):
        items_bQD = float32(items_BQD[low : low + block])
        similarity_ab = np.einsum("apd,bqd->abpq", anchors_aPD, items_bQD, optimize=True).max(axis=(2, 3))
        item_ab = np.broadcast_to(np.arange(low, low + len(items_bQD)), similarity_ab.shape)
        similarity_ab[known.mask(anchor_a, item_ab)] = -np.inf
        top = np.argpartition(-similarity_ab, min(k, len(items_bQD)) - 1, axis=1)[:, :k]
        _merge(best, rows, np.take_along_axis(item_ab, top, 1), np.take_along_axis(similarity_ab, top, 1))
    return best


def similarity_of_pairs(
    anchors_APD: Vectors, items_BQD: Vectors, anchor_K: Ints, item_K: Ints, block: int = 4096
) -> Floats:
    """Exact similarity of pairs, the maximum over both sides' vectors.

    Args:
        anchors_APD: (A, P, D).
        items_BQD: (B, Q, D).
        anchor_K, item_K: (K,) the pairs.
        block: pairs at a time.

    Returns:
        (K,) in [-1, 1].
    """
    parts = [np.empty(0, np.float32)]
    for low in range(0, len(anchor_K), block):
        part = slice(low, low + block)
        anchors, items = float32(anchors_APD[anchor_K[part]]), float32(items_BQD[item_K[part]])
        parts.append(np.einsum("kpd,kqd->kpq", anchors, items).max(axis=(1, 2)))
    return np.concatenate(parts)
