import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lavis_mafa.core import neighbors
from lavis_mafa.core.neighbors import NeighborIndex, nearest

faiss = pytest.importorskip("faiss")


def brute_force(queries, keys, k):
    similarity = queries.astype(np.float64) @ keys.astype(np.float64).T
    index = np.argsort(-similarity, axis=1, kind="stable")[:, :k]
    return index, np.take_along_axis(similarity, index, 1)


def unit_rows(n, dim, seed):
    rows = np.random.default_rng(seed).standard_normal((n, dim)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.mark.parametrize("backend", ["flat", "torch", "auto"])
def test_exact_backends_equal_brute_force(backend):
    queries, keys = unit_rows(53, 16, 0), unit_rows(700, 16, 1)
    index, similarity = nearest(queries, keys, 10, backend=backend, chunk=20)
    expected_index, expected = brute_force(queries, keys, 10)
    assert index.dtype == np.int64 and similarity.dtype == np.float32
    np.testing.assert_array_equal(index, expected_index)
    np.testing.assert_allclose(similarity, expected, atol=1e-6)


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 40), st.integers(1, 9), st.sampled_from(["flat", "torch"]), st.integers(0, 10**6))
def test_ties_are_listed_by_rising_index(n, k, backend, seed):
    rng = np.random.default_rng(seed)
    queries, keys = rng.integers(-1, 2, (5, 2)), rng.integers(-1, 2, (n, 2))
    index, similarity = nearest(queries, keys, k, backend=backend)
    expected_index, expected = brute_force(queries, keys, n)
    np.testing.assert_array_equal(similarity, expected[:, :k])
    assert index.shape == (5, min(k, n))
    for row, row_similarity, full, full_similarity in zip(index, similarity, expected_index, expected, strict=True):
        above = row_similarity > row_similarity[-1]  # at the end of the list any of the equals may stand
        np.testing.assert_array_equal(row[above], full[: above.sum()])
        last = row[~above]
        assert (np.diff(last) > 0).all() and set(last) <= set(full[full_similarity == row_similarity[-1]])


def test_keys_are_read_block_by_block_from_a_float16_memory_map(tmp_path, monkeypatch):
    monkeypatch.setattr(neighbors, "KEY_BLOCK", 64)
    keys = unit_rows(300, 8, 2).astype(np.float16)
    keys.tofile(tmp_path / "keys.bin")
    mapped = np.memmap(tmp_path / "keys.bin", np.float16, "r", shape=(300, 8))
    for backend in ("flat", "torch"):
        index, _ = nearest(mapped[:40], mapped, 3, backend=backend)
        np.testing.assert_array_equal(index, brute_force(keys[:40], keys, 3)[0])


def test_ivf_finds_most_neighbors_is_seeded_and_all_of_them_with_every_cell_searched():
    keys = unit_rows(4000, 8, 3)
    expected, _ = brute_force(keys[:200], keys, 5)
    index, _ = nearest(keys[:200], keys, 5, backend="ivf", nprobe=8)
    assert 0.6 < (index == expected).mean() < 1
    np.testing.assert_array_equal(index, nearest(keys[:200], keys, 5, backend="ivf", nprobe=8)[0])
    np.testing.assert_array_equal(nearest(keys[:200], keys, 5, backend="ivf", nprobe=10_000)[0], expected)


def test_ivf_marks_what_it_did_not_find():
    keys = unit_rows(400, 4, 4)
    ivf = NeighborIndex(keys, backend="ivf", nprobe=1)
    index, similarity = ivf.search(keys[:20], 400)
    assert (index[:, -1] == -1).all() and np.isneginf(similarity[:, -1]).all() and (index[:, 0] >= 0).all()


def test_coarse_cells_are_the_nearest_centroids_and_find_separate_clusters():
    centers = np.eye(5, 8, dtype=np.float32)
    cluster = np.random.default_rng(0).integers(0, 5, 500)
    rows = (centers[cluster] + 0.01 * unit_rows(500, 8, 11)).astype(np.float16)
    centroids, cell = neighbors.cells(rows, 5, seed=1)
    assert centroids.shape == (5, 8) and cell.shape == (500,)
    np.testing.assert_array_equal(cell, (rows.astype(np.float32) @ centroids.T).argmax(1))
    centroids, cell = neighbors.cells(rows, 40, seed=1)  # more cells than clusters: none holds two
    assert all(len(set(cluster[cell == c])) <= 1 for c in range(40))


def test_auto_is_flat_up_to_the_limit_and_ivf_above(monkeypatch):
    monkeypatch.setattr(neighbors, "FLAT_LIMIT", 100)
    assert NeighborIndex(unit_rows(100, 4, 5)).backend == "flat"
    assert NeighborIndex(unit_rows(101, 4, 5)).backend == "ivf"


@pytest.mark.parametrize("error", [None, RuntimeError("libcublas.so.12: cannot open shared object file")])
def test_without_a_working_faiss_the_exact_torch_search_serves(monkeypatch, error):
    class BrokenFinder:
        def find_spec(self, name, path=None, target=None):
            if name == "faiss":
                raise error

    if error is None:
        monkeypatch.setitem(sys.modules, "faiss", None)  # import raises ImportError
    else:
        monkeypatch.delitem(sys.modules, "faiss")
        monkeypatch.setattr(sys, "meta_path", [BrokenFinder(), *sys.meta_path])
    keys = unit_rows(500, 8, 6)
    index = NeighborIndex(keys)
    assert index.backend == "torch" and index.exact
    np.testing.assert_array_equal(index.search(keys[:30], 7)[0], brute_force(keys[:30], keys, 7)[0])
    with pytest.raises(ValueError, match="needs FAISS"):
        NeighborIndex(keys, backend="flat")


def test_thread_count_is_set_for_the_work_and_restored(monkeypatch):
    before = faiss.omp_get_max_threads()
    seen = []
    search = faiss.IndexFlatIP.search

    def spy(self, *args, **kwargs):
        seen.append(faiss.omp_get_max_threads())
        return search(self, *args, **kwargs)

    monkeypatch.setattr(faiss.IndexFlatIP, "search", spy)
    nearest(unit_rows(5, 4, 7), unit_rows(50, 4, 7), 2, backend="flat", threads=before + 3)
    assert seen == [before + 3] and faiss.omp_get_max_threads() == before
    monkeypatch.setattr(faiss.IndexFlatIP, "search", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        nearest(unit_rows(5, 4, 7), unit_rows(50, 4, 7), 2, backend="flat", threads=before + 3)
    assert faiss.omp_get_max_threads() == before


def test_a_loader_worker_may_not_search(monkeypatch):
    monkeypatch.setattr(neighbors, "get_worker_info", lambda: object())
    with pytest.raises(AssertionError, match="worker"):
        NeighborIndex(unit_rows(5, 4, 8))


def test_a_gpu_that_cannot_be_used_is_left_alone(monkeypatch):
    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 1)

    class NoKernels:
        def __init__(self):
            raise RuntimeError("no kernel image is available for execution on the device")

    monkeypatch.setattr(faiss, "StandardGpuResources", NoKernels, raising=False)
    keys = unit_rows(100, 4, 9)
    np.testing.assert_array_equal(nearest(keys, keys, 3)[0], brute_force(keys, keys, 3)[0])


@pytest.mark.parametrize("backend", ["flat", "ivf"])
def test_an_index_that_does_not_fit_on_the_gpu_is_built_on_the_cpu(backend, monkeypatch, caplog):
    class Full:
        is_trained, nlist = False, 2

        def train(self, rows):
            raise RuntimeError("Error in virtual void* alloc()\nfailed to cudaMalloc 9663676416 bytes: out of memory")

    class Probe:  # of one key, for which there is room
        add, search = (lambda self, rows: None), (lambda self, rows, k: (None, np.zeros((1, 1))))

    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 1)
    monkeypatch.setattr(faiss, "StandardGpuResources", object, raising=False)
    to_gpu = lambda resources, number, index: Probe() if index.d == 1 else Full()  # noqa: E731
    monkeypatch.setattr(faiss, "index_cpu_to_gpu", to_gpu, raising=False)
    keys = unit_rows(100, 4, 9)
    found = nearest(keys, keys, 1, backend=backend)[0]
    np.testing.assert_array_equal(found[:, 0], np.arange(100))
    assert "100 keys do not fit on the GPU (failed to cudaMalloc" in caplog.text


def test_an_unknown_backend_is_reported():
    with pytest.raises(ValueError, match="'hnsw'; allowed: auto, flat, ivf, torch"):
        NeighborIndex(unit_rows(5, 4, 10), backend="hnsw")
