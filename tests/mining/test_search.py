import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lavis_mafa.mining import search
from lavis_mafa.mining.search import Known, nearest_items, recall_of_candidates, similarity_of_pairs

NONE = Known.of(np.empty(0, np.int64), np.empty(0, np.int64), 4)


def unit(*shape, seed=0):
    vectors = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def plain(anchors_APD, items_BQD, k, known):
    """The k nearest by the definition: all pairs, the maximum over both sides' vectors."""
    sim_AB = np.einsum("apd,bqd->abpq", anchors_APD, items_BQD).max(axis=(2, 3))
    for key in known.key_K.tolist():
        sim_AB[divmod(key, len(items_BQD))] = -np.inf
    order = np.argsort(-sim_AB, axis=1, kind="stable")[:, :k]
    similarity = np.take_along_axis(sim_AB, order, 1)
    return np.where(np.isfinite(similarity), order, -1), similarity


@settings(deadline=None, max_examples=25)
@given(
    seed=st.integers(0, 10**6),
    sizes=st.tuples(st.integers(1, 12), st.integers(1, 3), st.integers(1, 12), st.integers(1, 3)),
    k=st.integers(1, 6),
    shard=st.integers(1, 20),
    backend=st.sampled_from(["flat", "torch"]),
)
# one vector of an anchor finds the item, and is not the one that is nearest to it
@example(seed=187, sizes=(11, 3, 3, 2), k=1, shard=6, backend="flat")
def test_the_search_equals_its_definition(tmp_path_factory, seed, sizes, k, shard, backend):
    (n_anchors, width, n_items, depth), path = sizes, tmp_path_factory.mktemp("search") / "near.npz"
    anchors, items = unit(n_anchors, width, 8, seed=seed), unit(n_items, depth, 8, seed=seed + 1)
    rng = np.random.default_rng(seed)
    pairs = np.unique(np.stack([rng.integers(n_anchors, size=5), rng.integers(n_items, size=5)], 1), axis=0)
    known = Known.of(pairs[:, 0], pairs[:, 1], n_items)
    found = nearest_items(anchors, items, k, known, path, backend, shard)
    item, similarity = plain(anchors, items, min(k, n_items), known)
    np.testing.assert_array_equal(found.item_Ak, item)
    np.testing.assert_allclose(found.similarity_Ak, similarity, atol=1e-6)
    assert recall_of_candidates(anchors, items, found, known) == 1.0


@pytest.mark.parametrize("found", [1, 8, 40, 10**6])
def test_an_anchor_with_many_known_items_is_searched_apart(tmp_path, monkeypatch, found):
    monkeypatch.setattr(search, "FOUND", found)
    anchors, items = unit(20, 1, 8), unit(50, 1, 8, seed=1)
    crowd = np.array([3] * 40 + [4] * 6)
    known = Known.of(crowd, np.concatenate([np.arange(40), np.arange(6)]), len(items))
    got = nearest_items(anchors, items, 5, known, tmp_path / "n.npz", "flat")
    np.testing.assert_array_equal(got.item_Ak, plain(anchors, items, 5, known)[0])


def test_an_image_with_a_hundred_thousand_captions_does_not_deepen_the_search_of_the_others():
    wanted = np.full(4096, 25)
    wanted[7] = 100_000
    parts = list(search._parts(np.arange(4096), wanted, search.FOUND))
    assert sorted(np.concatenate([rows for rows, _ in parts]).tolist()) == list(range(4096))
    assert [(len(rows), depth) for rows, depth in parts] == [(4095, 25), (1, 100_000)]
    assert len(list(search._parts(np.arange(4096), np.full(4096, 900), search.FOUND))) == 1


def test_the_maximum_over_queries_counts_even_where_one_image_has_all_the_nearest_vectors(tmp_path):
    text = unit(1, 1, 8)
    crowd = np.repeat(text, 30, axis=1)  # 30 queries of one image are the text itself
    others = np.stack([np.concatenate([unit(29, 8, seed=s), 0.5 * text[0]]) for s in range(1, 5)])
    found = nearest_items(text, np.concatenate([others, crowd]), 3, NONE, tmp_path / "n.npz", "flat")
    assert found.item_Ak[0, 0] == 4 and len(set(found.item_Ak[0].tolist())) == 3
    assert found.item_Ak.min() >= 0


def test_an_inexact_search_finds_more_the_more_cells_it_looks_into(tmp_path):
    rng = np.random.default_rng(0)
    crowds = unit(60, 16, seed=1)[rng.integers(60, size=1200)]
    items = crowds[:, None] + 0.2 * rng.normal(size=(1200, 4, 16))  # 4 queries of an image, as BLIP-2's 32
    items = (items / np.linalg.norm(items, axis=-1, keepdims=True)).astype(np.float32)
    anchors = unit(200, 1, 16, seed=2)

    def recall(name, **how):
        found = nearest_items(anchors, items, 10, NONE, tmp_path / name, "ivf", **how)
        return recall_of_candidates(anchors, items, found, NONE)

    few, many, all_cells = (recall(f"{n}.npz", nprobe=n) for n in (1, 8, 10**4))
    assert few < many - 0.1 and many < 1 and all_cells == 1.0


def test_recall_tells_what_a_search_has_missed(tmp_path):
    anchors, items = unit(6, 1, 8), unit(9, 2, 8, seed=1)
    found = nearest_items(anchors, items, 3, NONE, tmp_path / "n.npz", "flat")
    worst = np.einsum("apd,bqd->abpq", anchors, items).max(axis=(2, 3)).argmin(axis=1)
    found.item_Ak[:, 2] = worst
    assert recall_of_candidates(anchors, items, found, NONE) == pytest.approx(2 / 3)


def test_a_killed_search_goes_on_with_the_next_shard(tmp_path, monkeypatch):
    from lavis_mafa.mining import search

    anchors, items = unit(5, 1, 8), unit(12, 1, 8, seed=1)
    whole = nearest_items(anchors, items, 3, NONE, tmp_path / "whole.npz", "flat", shard=4)
    built = []

    def dies_at_the_third(keys, **options):
        built.append(len(keys))
        if len(built) == 3:
            raise KeyboardInterrupt
        return real(keys, **options)

    real = search.NeighborIndex
    monkeypatch.setattr(search, "NeighborIndex", dies_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        nearest_items(anchors, items, 3, NONE, tmp_path / "n.npz", "flat", shard=4)
    again = nearest_items(anchors, items, 3, NONE, tmp_path / "n.npz", "flat", shard=4)
    assert len(built) == 4  # the third shard alone was built again
    np.testing.assert_array_equal(again.item_Ak, whole.item_Ak)
    np.testing.assert_array_equal(again.similarity_Ak, whole.similarity_Ak)


def test_similarity_of_pairs_is_the_maximum_over_queries():
    images = np.array([[[1.0, 0.0], [0.0, 1.0]]], np.float16)
    texts = np.array([[[0.6, 0.8]], [[-1.0, 0.0]]], np.float16)
    assert similarity_of_pairs(images, texts, np.array([0, 0]), np.array([0, 1])).tolist() == pytest.approx(
        [0.8, 0.0], abs=1e-3
    )
