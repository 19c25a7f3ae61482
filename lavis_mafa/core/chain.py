"""The GRIT chain: image → most similar unused text → most similar unused image → … (GRIT-VLP, section 3.2).

Up to DENSE_LIMIT records all similarities are computed at once. Above, the chain walks lists of nearest neighbours,
made anew over what is unused whenever little is left, until the rest is small enough for all its similarities.
"""

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lavis_mafa.core.neighbors import KEY_BLOCK, FloatArray, IntArray, NeighborIndex, Rows, float32

DENSE_LIMIT = 10_000  # two float32 matrices of 400 MB
BLOCK = 256  # rows of a product that are transposed while they are in the cache


@dataclass
class Chainer:
    """Chains search spaces one after another; its buffers are reused, since fresh pages cost as much as the chain.

    Attributes:
        batch_size: batches the chain is cut into; a chain on approximate lists turns back within the batch.
        dense_limit: records up to which all similarities are held.
        k: neighbours listed for each record of a larger space.
        options: of NeighborIndex.
    """

    batch_size: int
    dense_limit: int = DENSE_LIMIT
    k: int = 32
    options: dict[str, Any] = field(default_factory=dict)
    _buffers: tuple[torch.Tensor, torch.Tensor] | None = None

    def chain(self, image_MD: Rows, text_MD: Rows, start: int, filled: int = 0) -> IntArray:
        """The order (M,) in which the chain that leaves from the image of `start` visits M records.

        Each step goes to the unused record of the largest inner product, ties to the lowest index. The order is that of
        this definition wherever the neighbours are exact (NeighborIndex.exact); else some steps miss the nearest.

        Args:
            image_MD, text_MD: the embeddings of the M records.
            filled: records that the batch which the chain begins in already holds.
        """
        n = image_MD.shape[0]
        order, count = np.empty(n, np.int64), 1
        order[0] = start
        unused = np.ones(n, bool)
        unused[start] = False
        while count < n:
            current = order[count - 1]
            left = np.flatnonzero(unused)
            left = np.insert(left, np.searchsorted(left, current), current)
            space = _Space(_Part(image_MD, left), _Part(text_MD, left), int(np.searchsorted(left, current)))
            if count % 2 == 0:  # the chain left `start` by its image, so it leaves every second record by its text
                space = replace(space, leaving=space.arriving, arriving=space.leaving)
            if len(left) <= max(self.dense_limit, 2):
                steps = _walk(*self._similarities(space), space.start)
            else:
                steps = _ListWalk(space, self, (filled + count - 1) % self.batch_size).run()
            order[count : count + len(steps) - 1] = left[steps[1:]]
            unused[left[steps]] = False
            count += len(steps) - 1
        return order

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


def greedy_chain(image_MD: Rows, text_MD: Rows, start: int, *, batch_size: int = 1, **settings: Any) -> IntArray:
    """`Chainer(batch_size, **settings).chain(image_MD, text_MD, start)`."""
    return Chainer(batch_size, **settings).chain(image_MD, text_MD, start)


@dataclass(frozen=True)
class _Part:
    """Some rows of `rows` (`neighbors.Rows`)."""

    rows: Rows
    places: IntArray

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.places), self.rows.shape[1])

    def __getitem__(self, key: Any) -> Any:
        return self.rows[self.places[key]]


@dataclass(frozen=True)
class _Space:
    """The chain leaves `start` by its row of `leaving`, arrives by a row of `arriving`, leaves from there by that, …"""

    leaving: Rows
    arriving: Rows
    start: int


def _walk(sim_MM: FloatArray, transposed_MM: FloatArray, start: int) -> IntArray:
    """The greedy chain on given similarities; rows of `sim_MM` are read at even steps, of its transpose at odd ones."""
    n = len(sim_MM)
    order = np.empty(n, np.int64)
    penalty, masked = np.zeros(n, np.float32), np.empty(n, np.float32)
    here, there, current = sim_MM, transposed_MM, start
    for step in range(n):
        order[step] = current
        penalty[current] = -np.inf
        np.add(here[current], penalty, out=masked)
        current = int(masked.argmax())  # the first of equals: the lowest index
        here, there = there, here
    return order


class _ListWalk:
    """The chain on lists of k neighbours, until most of the space is used (lists of used records are of no use)."""

    def __init__(self, space: _Space, chainer: Chainer, filled: int) -> None:
        self.space, self.batch_size, self.filled = space, chainer.batch_size, filled
        n = space.leaving.shape[0]
        k = min(chainer.k, n)
        index = NeighborIndex(space.arriving, **chainer.options)
        self.exact, self.complete = index.exact, index.exact and k == n
        self.restart = None if self.exact else _Restart(index)
        out, out_sim = index.search(space.leaving, k)
        del index  # one index in memory at a time
        back, back_sim = NeighborIndex(space.leaving, **chainer.options).search(space.arriving, k)
        self.lists = (out.astype(np.int32), back.astype(np.int32))
        self.sims = (out_sim, back_sim) if self.exact else None
        self.unused = np.ones(n + 1, bool)
        self.unused[-1] = False  # where a list shorter than k points to
        # Exact lists cost n² to make anew, approximate ones n: so their rounds differ in length.
        self.length = n - n // (2 if self.exact else 4)

    def run(self) -> IntArray:
        order = np.empty(self.length, np.int64)
        current = self.space.start
        for step in range(self.length):
            order[step] = current
            self.unused[current] = False
            if step + 1 < self.length:
                current = self._next(order[: step + 1], step % 2)
        return order

    def _next(self, order: IntArray, side: int) -> int:
        current = order[-1]
        neighbors = self.lists[side][current]
        open_k = self.unused[neighbors]
        place = int(open_k.argmax())
        if self.sims is not None:
            # A record that ties with the end of the list may tie with one beyond it that has a lower index.
            sim_k = self.sims[side][current]
            found = open_k[place] and (self.complete or sim_k[place] > sim_k[-1])
            return int(neighbors[place]) if found else self._exact_next(current, side)
        if open_k[place]:
            return int(neighbors[place])
        return self._turn_back(order, side)

    def _exact_next(self, current: int, side: int) -> int:
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

    def _turn_back(self, order: IntArray, side: int) -> int:
        """Goes on from the latest record of the batch being filled that has an unused neighbour, else elsewhere."""
        assert self.restart is not None
        in_batch = (self.filled + len(order)) % self.batch_size
        batch = order[max(0, len(order) - in_batch) :]
        neighbors = self.lists[side][batch]
        open_bk = self.unused[neighbors]
        alive = np.flatnonzero(open_bk.any(1))
        if len(alive):
            return int(neighbors[alive[-1], open_bk[alive[-1]].argmax()])
        return self.restart.after(int(order[-1]), self.unused)


class _Restart:
    """Where an approximate chain goes on that is stuck: to the next unused record on a path through all IVF cells."""

    def __init__(self, index: NeighborIndex) -> None:
        centroids_LD, cells = index.cells()
        order_L = greedy_chain(centroids_LD, centroids_LD, 0)  # neighbouring cells come one after the other
        self.path = np.concatenate([cells[cell] for cell in order_L])
        self.place = np.empty_like(self.path)
        self.place[self.path] = np.arange(len(self.path))
        # The next place that may be unused; used ones are jumped over.
        self.next = [*range(1, len(self.path)), 0]

    def after(self, current: int, unused: NDArray[np.bool_]) -> int:
        passed, place = [], int(self.place[current])
        while not unused[self.path[place]]:
            passed.append(place)
            place = self.next[place]
        for used in passed:  # path compression: the next search jumps straight here
            self.next[used] = place
        return int(self.path[place])
