"""The k nearest neighbours by inner product: FAISS flat, FAISS IVF, either on a GPU, or exact torch without FAISS."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import TYPE_CHECKING, Protocol, TypedDict

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import get_worker_info

from lavis_mafa.common.precision import full_float32

if TYPE_CHECKING:
    from typing_extensions import Unpack

FLAT_LIMIT = 50_000  # keys up to which `auto` searches exactly; above, IVF is several times cheaper
BACKENDS = ("auto", "flat", "ivf", "torch")
TRAIN_POINTS = 40  # training points a cell: FAISS asks for 39 at least; its default of 256 takes six times as long
TRAIN_ROUNDS = 6
KEY_BLOCK = 16_384  # keys held in float32 at a time

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float32]


Index = slice | IntArray


class Rows(Protocol):
    """Rows read on demand: an array, a memory map, or a view that gathers them from several files."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __getitem__(self, rows: Index, /) -> NDArray[np.floating]: ...


class FaissIndex(Protocol):
    """What is used of an index of FAISS, which has no types; `nlist` is IVF's."""

    is_trained: bool
    nlist: int

    def train(self, rows_ND: FloatArray) -> None: ...

    def add(self, rows_ND: FloatArray) -> None: ...

    def search(self, queries_QD: FloatArray, k: int) -> tuple[FloatArray, IntArray]: ...


class IndexOptions(TypedDict, total=False):
    """The keywords of NeighborIndex."""

    backend: str
    nprobe: int
    seed: int
    threads: int | None
    chunk: int


def load_faiss() -> ModuleType | None:
    """FAISS, or None where it is missing or broken (a GPU build without NVIDIA's runtime raises RuntimeError)."""
    try:
        import faiss
    except (ImportError, RuntimeError):
        return None
    module: ModuleType = faiss
    return module


def float32(rows: NDArray[np.floating]) -> FloatArray:
    """A contiguous float32 copy of float16 or float32 rows; through torch, whose conversion is several times faster."""
    array: FloatArray = torch.from_numpy(np.array(rows)).float().numpy()
    return array


def nearest(queries_QD: Rows, keys_ND: Rows, k: int, **options: Unpack[IndexOptions]) -> tuple[IntArray, FloatArray]:
    """`NeighborIndex(keys_ND, **options).search(queries_QD, k)`."""
    return NeighborIndex(keys_ND, **options).search(queries_QD, k)


def cells(rows_ND: Rows, count: int, *, seed: int = 0, threads: int | None = None) -> tuple[FloatArray, IntArray]:
    """Coarse cells, by spherical k-means on a sample of the rows.

    Args:
        rows_ND: (N, D) vectors.
        count: L, how many cells.
        seed: of the sample.
        threads: of FAISS; None: all cores.

    Returns:
        Centroids (L, D), and the cell of each row (N,).
    """
    n, dim = rows_ND.shape
    faiss = load_faiss()
    assert faiss is not None, "k-means is FAISS' own"
    means = faiss.Kmeans(dim, count, niter=TRAIN_ROUNDS, seed=seed, spherical=True, min_points_per_centroid=1)
    with faiss_threads(faiss, threads):
        means.train(float32(rows_ND[_sample(n, TRAIN_POINTS * count, seed)]))
    cell_N1, _ = nearest(rows_ND, means.centroids, 1, backend="flat", threads=threads)
    return means.centroids, cell_N1[:, 0]


class NeighborIndex:
    """An index over keys (N, D), built once and searched in chunks.

    Args:
        keys_ND: float16 or float32 rows; read block by block, so a memory map of any length will do.
        backend: `auto` takes FAISS: flat up to FLAT_LIMIT keys, IVF above, on a GPU where FAISS has a working one;
            without FAISS the exact torch search. `flat`, `ivf` and `torch` force one.
        nprobe: cells that IVF searches for each query.
        seed: seeds the training of IVF.
        threads: FAISS threads while building and searching (default: all cores); restored afterwards.
        chunk: queries held in float32 at a time.

    Raises:
        ValueError: an unknown backend, or a FAISS backend where FAISS does not import.
    """

    def __init__(
        self,
        keys_ND: Rows,
        *,
        backend: str = "auto",
        nprobe: int = 8,
        seed: int = 0,
        threads: int | None = None,
        chunk: int = 4096,
    ) -> None:
        assert get_worker_info() is None, "FAISS is never used in a loader worker: its threads do not survive a fork"
        self._keys, self._chunk, self._threads = keys_ND, chunk, threads
        self.n, self.dim = keys_ND.shape
        self._faiss = load_faiss()
        self.backend = choose(backend, self.n)
        if self.backend != "torch":
            with faiss_threads(self._faiss, threads):
                self._index, self._gpu = self._build(nprobe, seed)

    @property
    def exact(self) -> bool:
        """Whether every true neighbour is found (up to float32 rounding)."""
        return self.backend != "ivf"

    def search(self, queries_QD: Rows, k: int) -> tuple[IntArray, FloatArray]:
        """The k nearest keys of each query.

        Returns:
            index (Q, k) int64 and similarity (Q, k) float32, with k at most N, by falling similarity, ties by rising
            index. Of keys that tie for the last place any may be listed. IVF fills up with index -1, similarity -inf.
        """
        assert get_worker_info() is None, "FAISS is never used in a loader worker: its threads do not survive a fork"
        k, n_queries = min(k, self.n), queries_QD.shape[0]
        index_Qk = np.empty((n_queries, k), np.int64)
        similarity_Qk = np.empty((n_queries, k), np.float32)
        for low in range(0, n_queries, self._chunk):
            part = slice(low, low + self._chunk)
            index_Qk[part], similarity_Qk[part] = self._search_chunk(float32(queries_QD[part]), k)
        return index_Qk, similarity_Qk

    def _build(self, nprobe: int, seed: int) -> tuple[FaissIndex, object]:
        """On a GPU where one has the room, and its resources, which must outlive the index; else on the CPU."""
        faiss = self._faiss
        assert faiss is not None, "`choose` looked for it"

        def empty() -> FaissIndex:
            return faiss.IndexFlatIP(self.dim) if self.backend == "flat" else self._empty_ivf(nprobe, seed)

        gpu = faiss.StandardGpuResources() if _gpu_works(faiss) else None
        if gpu is not None:
            try:
                return self._filled(faiss.index_cpu_to_gpu(gpu, _own_gpu(), empty()), seed), gpu
            except RuntimeError as error:
                why = str(error).strip().splitlines()[-1]
                logging.warning("FAISS: %d keys do not fit on the GPU (%s): they are searched on the CPU", self.n, why)
        return self._filled(empty(), seed), None

    def _filled(self, index: FaissIndex, seed: int) -> FaissIndex:
        if not index.is_trained:
            index.train(float32(self._keys[_sample(self.n, TRAIN_POINTS * index.nlist, seed)]))
        for _, keys in _blocks(self._keys):
            index.add(keys)
        return index

    def _empty_ivf(self, nprobe: int, seed: int) -> FaissIndex:
        faiss = self._faiss
        assert faiss is not None, "`choose` looked for it"
        # FAISS' guideline is 4 to 16 times the root of N; 39 keys a cell are the fewest that it trains without warning.
        nlist = max(1, min(round(4 * self.n**0.5), self.n // 39))
        ivf = faiss.IndexIVFFlat(faiss.IndexFlatIP(self.dim), self.dim, nlist, faiss.METRIC_INNER_PRODUCT)
        ivf.cp.seed, ivf.cp.niter, ivf.nprobe = seed, TRAIN_ROUNDS, nprobe
        index: FaissIndex = ivf
        return index

    def _search_chunk(self, queries_QD: FloatArray, k: int) -> tuple[IntArray, FloatArray]:
        if self.backend == "torch":
            similarity, index = _search_torch(queries_QD, self._keys, k)
        else:
            with faiss_threads(self._faiss, self._threads):
                similarity, index = self._index.search(queries_QD, k)
            similarity[index < 0] = -np.inf
        order = np.lexsort((index, -similarity), axis=-1)
        return np.take_along_axis(index, order, 1), np.take_along_axis(similarity, order, 1)


@contextmanager
def faiss_threads(faiss: ModuleType | None, threads: int | None) -> Iterator[None]:
    """Sets FAISS' thread count (default: all cores, whatever OMP_NUM_THREADS torchrun set) and restores it."""
    assert faiss is not None, "a backend of FAISS was chosen"
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(threads or len(os.sched_getaffinity(0)))
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


def _sample(n: int, size: int, seed: int) -> IntArray:
    """At most `size` of n rows, rising."""
    return np.sort(np.random.default_rng(seed).permutation(n)[:size])


def choose(backend: str, n: int) -> str:
    """The backend that searches n keys.

    Raises:
        ValueError: an unknown backend, or a FAISS backend where FAISS does not import.
    """
    if backend not in BACKENDS:
        raise ValueError(f"backend is {backend!r}; allowed: {', '.join(BACKENDS)}")
    has_faiss = load_faiss() is not None
    if backend == "auto":
        return "torch" if not has_faiss else "flat" if n <= FLAT_LIMIT else "ivf"
    if backend != "torch" and not has_faiss:
        raise ValueError(f'backend {backend!r} needs FAISS: pip install -e ".[cpu]", or set backend to auto')
    return backend


def _own_gpu() -> int:
    """The GPU of this process: FAISS counts them as torch does."""
    return torch.cuda.current_device() if torch.cuda.is_available() else 0


def _gpu_works(faiss: ModuleType) -> bool:
    """Whether FAISS finds a GPU and can use it: a build for other devices says so only once it is tried."""
    try:
        if faiss.get_num_gpus() == 0:
            return False
        probe = faiss.index_cpu_to_gpu(faiss.StandardGpuResources(), _own_gpu(), faiss.IndexFlatIP(1))
        probe.add(np.ones((1, 1), np.float32))
        return bool(probe.search(np.ones((1, 1), np.float32), 1)[1][0, 0] == 0)
    except (AttributeError, RuntimeError):
        return False


def _blocks(keys_ND: Rows) -> Iterator[tuple[int, FloatArray]]:
    for low in range(0, keys_ND.shape[0], KEY_BLOCK):
        yield low, float32(keys_ND[low : low + KEY_BLOCK])


def _search_torch(queries_QD: FloatArray, keys_ND: Rows, k: int) -> tuple[FloatArray, IntArray]:
    """Exact search: the best k of each block of keys are merged with the best k so far."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    queries = torch.from_numpy(queries_QD).to(device)
    best = torch.empty(len(queries), 0, device=device)
    index = torch.empty(len(queries), 0, dtype=torch.int64, device=device)
    for low, keys in _blocks(keys_ND):
        with full_float32(device):
            similarity, place = (queries @ torch.from_numpy(keys).to(device).T).topk(min(k, len(keys)))
        best, index = torch.cat([best, similarity], 1), torch.cat([index, place + low], 1)
        best, place = best.topk(min(k, best.shape[1]))
        index = index.gather(1, place)
    return best.cpu().numpy(), index.cpu().numpy()
