"""The GRIT chain: image → most similar unused text → most similar unused image → … (GRIT-VLP, section 3.2).

Up to DENSE_LIMIT records, all similarities are computed at once. Above that, the chain follows exact neighbour lists
and rebuilds them over the unused records whenever they run short, until the rest fits into one similarity matrix. Where
a search would not be exact (neighbors.FLAT_LIMIT), the chain passes through windows of similar records and computes all
similarities of each window.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray

from lavis_mafa.core.neighbors import (
    KEY_BLOCK,
    FloatArray,
    Index,
    IndexOptions,
    IntArray,
    Rows,
    cells,
    choose,
    float32,
    nearest,
)

DENSE_LIMIT = 10_000  # two float32 matrices of 400 MB
WINDOW = 1024  # similar records that are chained together; a record costs as many similarities
BLOCK = 256  # rows of a product that are transposed while they are in the cache


@dataclass
class Chainer:
    """Chains search spaces one after another and reuses its buffers: allocating them costs as much as the chain.

    Attributes:
        dense_limit: records up to which all similarities are held.
        k: neighbours listed for each record of a larger space.
        options: backend, threads and seed of NeighborIndex; backend `ivf` stands for windows.
        skip, quantile: choose another record than the nearest unused one (`place`); needs all similarities in memory.
    """

    dense_limit: int = DENSE_LIMIT
    k: int = 32
    options: IndexOptions = field(default_factory=IndexOptions)
    skip: int = 0
    quantile: float = 1.0
    _buffers: tuple[torch.Tensor, torch.Tensor] | None = None

    def __post_init__(self) -> None:
        self.dense_limit = max(self.dense_limit, 2)  # the current record and the next one

    def chain(self, image_MD: Rows, text_MD: Rows, start: int) -> IntArray:
        """The order in which a chain visits M records.

        Each step goes to the unused record of the largest inner product, ties to the lowest index. With windows, the
        choice is among the unused records of the current window.

        Args:
            image_MD: (M, D) image embeddings.
            text_MD: (M, D) embeddings of the records' captions.
            start: the record whose image the chain leaves from.

        Returns:
            (M,) a permutation of the records that begins with `start`.

        Example:
            >>> image = text = np.array([[1.0, 0.0], [0.0, 1.0], [0.8, 0.6]], np.float32)
            >>> Chainer().chain(image, text, start=0).tolist()
            [0, 2, 1]
        """
        n = image_MD.shape[0]
        order, count = np.empty(n, np.int64), 1
        order[0] = start
        for window in self._windows(image_MD, text_MD, start):
            unused = window[window != start]
            while len(unused):
                current = order[count - 1]
                here = int(np.searchsorted(unused, current))
                left = np.insert(unused, here, current)
                space = _Space(_Part(image_MD, left), _Part(text_MD, left), here)
                if count % 2 == 0:  # the chain left `start` by its image, so it leaves every second record by its text
                    space = replace(space, leaving=space.arriving, arriving=space.leaving)
                steps = self._steps(space)
                order[count : count + len(steps) - 1] = left[steps[1:]]
                count += len(steps) - 1
                unused = np.delete(left, steps)
        return order

    def place(self, unused: int) -> int:
        """Place, 0 the nearest, of the next record among so many unused ones: `skip` of them are passed over (B3, arXiv
        2505.11293, leaves out the first ranks as likely false negatives), then the one at this quantile of similarity
        is taken (a fixed q of FALCON, arXiv 2505.11192; 1 is GRIT)."""
        skip = min(self.skip, unused - 1)
        return skip + round((1 - self.quantile) * (unused - 1 - skip))

    def _windows(self, image_MD: Rows, text_MD: Rows, start: int) -> Iterator[IntArray]:
        """Records that are chained together, rising, window after window: all of them wherever their lists are exact,
        else those next to each other on a path from the cell of `start` through all coarse cells."""
        n, options = image_MD.shape[0], self.options
        if n <= self.dense_limit or choose(options.get("backend", "auto"), n) != "ivf":
            yield np.arange(n)
            return
        size = min(WINDOW, self.dense_limit - 1)
        centroids_LD, cell_M = cells(
            _Records(image_MD, text_MD), -(-n // size), seed=options.get("seed", 0), threads=options.get("threads")
        )
        path_L = Chainer().chain(centroids_LD, centroids_LD, int(cell_M[start]))  # neighbours follow one another
        path_M = np.argsort(np.argsort(path_L)[cell_M], kind="stable")
        for low in range(0, n, size):
            yield np.sort(path_M[low : low + size])

    def _steps(self, space: "_Space") -> IntArray:
        """The chain through the space, or, on lists, through the first half of it."""
        if space.leaving.shape[0] > self.dense_limit:
            return _ListWalk(space, self).run()
        place = self.place if self.skip or self.quantile < 1 else None
        return _walk(*self._similarities(space), space.start, place)

    def _similarities(self, space: "_Space") -> tuple[FloatArray, FloatArray]:
        """All similarities (M, M) of the space and their transpose, a contiguous copy: the walk reads rows of both."""
        leaving, arriving = torch.from_numpy(float32(space.leaving[:])), torch.from_numpy(float32(space.arriving[:]))
        n = len(leaving)
        if self._buffers is None or len(self._buffers[0]) < n * n:
            self._buffers = torch.empty(n * n), torch.empty(n * n)
        sim_MM, transposed_MM = (buffer[: n * n].view(n, n) for buffer in self._buffers)
        for low in range(0, n, BLOCK):
            rows = torch.mm(leaving[low : low + BLOCK], arriving.T, out=sim_MM[low : low + BLOCK])
            transposed_MM[:, low : low + BLOCK] = rows.T
        return sim_MM.numpy(), transposed_MM.numpy()


@dataclass(frozen=True)
class _Part:
    """Some rows of `rows` (`neighbors.Rows`)."""

    rows: Rows
    places: IntArray

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.places), self.rows.shape[1])

    def __getitem__(self, key: Index) -> NDArray[np.floating]:
        return self.rows[self.places[key]]


@dataclass(frozen=True)
class _Records:
    """A row a record, for both of its embeddings: their sum."""

    image_MD: Rows
    text_MD: Rows

    @property
    def shape(self) -> tuple[int, ...]:
        return self.image_MD.shape

    def __getitem__(self, key: Index) -> FloatArray:
        both: FloatArray = float32(self.image_MD[key]) + float32(self.text_MD[key])
        return both


@dataclass(frozen=True)
class _Space:
    """The chain leaves `start` by its row of `leaving`, arrives by a row of `arriving`, leaves from there by that, …"""

    leaving: Rows
    arriving: Rows
    start: int


def _walk(
    sim_MM: FloatArray, transposed_MM: FloatArray, start: int, place: Callable[[int], int] | None = None
) -> IntArray:
    """The greedy chain on given similarities; rows of `sim_MM` are read at even steps, of its transpose at odd ones.

    place: Chainer.place; None: the nearest.
    """
    n = len(sim_MM)
    order = np.empty(n, np.int64)
    penalty, masked = np.zeros(n, np.float32), np.empty(n, np.float32)
    here, there, current = sim_MM, transposed_MM, start
    for step in range(n):
        order[step] = current
        penalty[current] = -np.inf
        np.add(here[current], penalty, out=masked)
        if place is not None and step + 1 < n:  # all nearer ones are out of reach for this step
            at = n - 1 - place(n - 1 - step)
            masked[masked > np.partition(masked, at)[at]] = -np.inf
        current = int(masked.argmax())  # the first of equals: the lowest index
        here, there = there, here
    return order


class _ListWalk:
    """The chain on exact lists of k neighbours, until half of the space is used (lists of used ones are of no use)."""

    def __init__(self, space: _Space, chainer: Chainer) -> None:
        self.space = space
        n = space.leaving.shape[0]
        k = min(chainer.k, n)
        self.complete = k == n
        out, out_sim = nearest(space.leaving, space.arriving, k, **chainer.options)
        back, back_sim = nearest(space.arriving, space.leaving, k, **chainer.options)
        self.lists = (out.astype(np.int32), back.astype(np.int32))
        self.sims = (out_sim, back_sim)
        self.unused = np.ones(n, bool)
        self.length = n - n // 2

    def run(self) -> IntArray:
        order = np.empty(self.length, np.int64)
        current = self.space.start
        for step in range(self.length):
            order[step] = current
            self.unused[current] = False
            if step + 1 < self.length:
                current = self._next(current, step % 2)
        return order

    def _next(self, current: int, side: int) -> int:
        neighbors = self.lists[side][current]
        open_k = self.unused[neighbors]
        place = int(open_k.argmax())
        # A record that ties with the end of the list may tie with one beyond it that has a lower index.
        sim_k = self.sims[side][current]
        found = open_k[place] and (self.complete or sim_k[place] > sim_k[-1])
        return int(neighbors[place]) if found else self._search(current, side)

    def _search(self, current: int, side: int) -> int:
        """The nearest of all unused records, block by block."""
        query, keys = self.space.leaving, self.space.arriving
        if side == 1:
            query, keys = keys, query
        query_D = torch.from_numpy(float32(query[np.array([current])])[0])
        unused = np.flatnonzero(self.unused)
        best, nearest = -np.inf, -1
        for low in range(0, len(unused), KEY_BLOCK):
            part = unused[low : low + KEY_BLOCK]
            sim = (torch.from_numpy(float32(keys[part])) @ query_D).numpy()
            place = int(sim.argmax())
            if sim[place] > best:
                best, nearest = float(sim[place]), int(part[place])
        return nearest
