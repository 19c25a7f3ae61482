import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lavis_mafa.core import chain, neighbors
from lavis_mafa.core.chain import Chainer
from lavis_mafa.core.embeddings import EmbeddingStore
from lavis_mafa.core.grit import GritPlanner
from lavis_mafa.core.plan import PlannedBatchSampler


def greedy_chain(image, text, start, **settings):
    return Chainer(**settings).chain(image, text, start)


def plain_chain(image, text, start):
    """The definition: from an image to the most similar unused text, from its record's text to an image, and so on."""
    similarity = image.astype(np.float64) @ text.astype(np.float64).T  # (image, text)
    order, unused = [start], [i for i in range(len(image)) if i != start]
    while unused:
        here = order[-1]
        if len(order) % 2 == 1:
            best = max(unused, key=lambda j: (similarity[here, j], -j))
        else:
            best = max(unused, key=lambda j: (similarity[j, here], -j))
        order.append(best)
        unused.remove(best)
    return order


def small_whole_numbers(n, dim, seed):
    """Embeddings whose products are exact in float32, full of ties, some rows twice."""
    rng = np.random.default_rng(seed)
    image, text = rng.integers(-3, 4, (2, n, dim)).astype(np.float32)
    copied, places = rng.integers(0, n, (2, n // 3))
    image[places], text[places] = image[copied], text[copied]
    return image, text


def clusters(n, dim=16, spread=0.4, seed=0):
    rng = np.random.default_rng(seed)
    centers = rng.standard_normal((max(1, n // 20), dim))
    rows = centers[rng.integers(0, len(centers), n)] + spread * rng.standard_normal((2, n, dim))
    return (rows / np.linalg.norm(rows, axis=-1, keepdims=True)).astype(np.float32)


def test_a_chain_by_hand():
    #                 text 0     1     2     3
    image = np.eye(4, dtype=np.float32)
    text = np.array([[9, 1, 5, 1], [2, 9, 1, 8], [3, 0, 9, 3], [0, 7, 3, 9]], np.float32)
    # image 0: texts 9 2 3 0, itself used → 2; text 2: images 3 0 9 3, 0 and 2 used → 3; then 1
    assert greedy_chain(image, text, 0).tolist() == [0, 2, 3, 1]


def test_ties_go_to_the_lowest_index():
    same = np.ones((5, 2), np.float32)
    assert greedy_chain(same, same, 3).tolist() == [3, 0, 1, 2, 4]
    assert greedy_chain(same, same, 3, dense_limit=1, k=2).tolist() == [3, 0, 1, 2, 4]


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 60), st.integers(1, 4), st.data())
def test_the_dense_chain_is_the_plain_chain(n, dim, data):
    image, text = small_whole_numbers(n, dim, data.draw(st.integers(0, 10**6)))
    start = data.draw(st.integers(0, n - 1))
    assert greedy_chain(image, text, start).tolist() == plain_chain(image, text, start)


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 60), st.integers(1, 4), st.integers(1, 12), st.integers(1, 30), st.booleans(), st.data())
def test_the_chain_on_exact_lists_is_the_plain_chain(n, dim, k, dense_limit, flat, data):
    image, text = small_whole_numbers(n, dim, data.draw(st.integers(0, 10**6)))
    start = data.draw(st.integers(0, n - 1))
    options = {"backend": "flat" if flat else "torch"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chain, "KEY_BLOCK", 7)  # ties across blocks
        order = greedy_chain(image, text, start, k=k, dense_limit=dense_limit, options=options)
    assert order.tolist() == plain_chain(image, text, start)


@pytest.mark.parametrize("dense_limit", [600, 100])
def test_the_chain_of_real_numbers_over_several_blocks(dense_limit, monkeypatch):
    monkeypatch.setattr(chain, "BLOCK", 64)
    monkeypatch.setattr(chain, "KEY_BLOCK", 50)
    image, text = clusters(600)
    order = greedy_chain(image.astype(np.float16), text.astype(np.float16), 17, dense_limit=dense_limit, k=4)
    assert order.tolist() == plain_chain(image.astype(np.float16), text.astype(np.float16), 17)


def hardness(image, text, order, batch_size):
    """The mean similarity of an image to the hardest other text of its batch."""
    batches = order[: len(order) // batch_size * batch_size].reshape(-1, batch_size)
    similarity = np.einsum("kbd,kcd->kbc", image[batches], text[batches])
    similarity[:, np.arange(batch_size), np.arange(batch_size)] = -np.inf
    return similarity.max(2).mean()


def test_beyond_exact_search_the_chain_goes_through_windows_of_similar_records(monkeypatch):
    centroids = np.array([[0, 1], [1, 0], [0.8, 0.6]], np.float32)
    cell = np.array([0, 1, 2, 0, 1, 2, 0, 1])
    monkeypatch.setattr(chain, "cells", lambda rows, count, **_: (centroids[:count], cell))
    # Every record is nearest to 0, then 1, …: within a window the chain goes by number.
    image = text = np.arange(8, 0, -1, dtype=np.float32)[:, None]
    order = greedy_chain(image, text, 4, dense_limit=4, options={"backend": "ivf"})
    # Path of cells from record 4's: 1 (1 4 7), the nearer 2 (2 5), 0 (0 3 6). Windows of 3: 1 4 7, 0 2 5, 3 6
    assert order.tolist() == [4, 1, 7, 0, 2, 5, 3, 6]


def test_a_chain_through_windows_leaves_every_second_record_by_its_text(monkeypatch):
    monkeypatch.setattr(chain, "cells", lambda rows, count, **_: (np.ones((count, 1), np.float32), np.arange(6) // 2))
    image, text = small_whole_numbers(6, 4, 5)
    order = greedy_chain(image, text, 0, dense_limit=3, options={"backend": "ivf"}).tolist()
    assert order[:2] == [0, 1]
    similarity = image @ text.T
    for at, window in ((2, [2, 3]), (4, [4, 5])):
        here = order[at - 1]  # an odd place of the chain: reached by its text, left by its text
        assert order[at] == max(window, key=lambda j: (similarity[j, here], -j))
        assert sorted(order[at : at + 2]) == window


@settings(deadline=None, max_examples=20)
@given(st.integers(3, 200), st.integers(2, 60), st.integers(0, 10**6))
def test_a_chain_through_windows_is_a_permutation_that_follows_from_its_seed(n, dense_limit, seed):
    image, text = small_whole_numbers(n, 3, seed)
    way = {"dense_limit": dense_limit, "options": {"backend": "ivf", "seed": seed, "threads": 1}}
    order = greedy_chain(image, text, seed % n, **way)
    assert order[0] == seed % n and sorted(order) == list(range(n))
    assert order.tolist() == greedy_chain(image, text, seed % n, **way).tolist()


@pytest.mark.parametrize("spread", [0.4, 0.0])  # 0: whole clusters of equal rows
def test_the_chain_through_windows_is_nearly_as_hard(spread):
    image, text = clusters(4000, spread=spread)
    order = greedy_chain(image, text, 5, dense_limit=300, options={"backend": "ivf", "threads": 1})
    exact = hardness(image, text, greedy_chain(image, text, 5), 32)
    random = hardness(image, text, np.random.default_rng(0).permutation(4000), 32)
    assert hardness(image, text, order, 32) > random + 0.9 * (exact - random)


# -- the planner --


def embed(folder, plan, n, epoch, seed=0):
    """What a run does: every rank writes the embeddings of its batches."""
    image, text = clusters(n, dim=4, seed=seed)
    stores = [EmbeddingStore(folder, n, 4, "f", rank, plan.world) for rank in range(plan.world)]
    for rank, store in enumerate(stores):
        store.begin_epoch(epoch, plan.steps * plan.batch_size)
        for batch in PlannedBatchSampler(plan, rank):
            store.write(batch, image[batch], text[batch])
        store.commit()
        store.close()
    return stores[0].gather(epoch)


@settings(deadline=None, max_examples=25)
@given(
    batch_size=st.integers(1, 7),
    world=st.integers(1, 3),
    more=st.integers(0, 60),
    search_space=st.one_of(st.integers(1, 80), st.just("all")),
    siblings=st.sampled_from(["free", "apart"]),
    sampling=st.sampled_from(["grit", "random"]),
)
def test_every_record_is_planned_once_and_trained_on_every_second_epoch(
    tmp_path_factory, batch_size, world, more, search_space, siblings, sampling
):
    n, folder = batch_size * world + more, tmp_path_factory.mktemp("store")
    planner = GritPlanner(batch_size, world, search_space, 1, sampling, siblings)
    image_id = np.arange(n) // 3
    plan, embeddings, untrained = None, None, set()
    for epoch in range(4):
        lead = None if plan is None else plan.untrained
        plan = planner.plan(epoch, embeddings, n, lead, image_id)
        assert sorted(plan.order_N) == list(range(n))
        assert len(plan.untrained) == n % (batch_size * world)
        assert not untrained & set(plan.untrained)
        if lead is not None and siblings == "free":
            assert set(plan.order_N[: len(lead)]) == set(lead)
        embeddings, untrained = embed(folder, plan, n, epoch), set(plan.untrained)
        assert set(embeddings.missing) == untrained


def test_batches_are_pieces_of_the_chain_and_their_order_is_shuffled(tmp_path):
    n, planner = 240, GritPlanner(8, search_space=80, seed=3)
    first = planner.plan(0, None, n)
    assert first.sampling == "random"
    embeddings = embed(tmp_path, first, n, 0)
    plan = planner.plan(1, embeddings, n, first.untrained)
    assert plan.sampling == "grit"
    image, text = embeddings.image(np.arange(n)), embeddings.text(np.arange(n))
    batches = {tuple(batch) for batch in PlannedBatchSampler(plan, 0)}
    # The draws of the planner, in its order: the shuffle of the records that have embeddings, then a start a space.
    rng, pieces, pieces_in_order = np.random.default_rng((3, 1)), set(), []
    rng.permutation(0), rng.permutation(0)
    shuffled = rng.permutation(n)
    for low in range(0, n, 80):
        space = np.sort(shuffled[low : low + 80])
        order = space[plain_chain(image[space], text[space], int(rng.integers(80)))]
        pieces_in_order += [tuple(piece) for piece in order.reshape(-1, 8)]
    pieces = set(pieces_in_order)
    assert batches == pieces
    assert [tuple(batch) for batch in PlannedBatchSampler(plan, 0)] != pieces_in_order


def test_plans_follow_from_seed_and_epoch(tmp_path):
    embeddings = embed(tmp_path, GritPlanner(4).plan(0, None, 50), 50, 0)
    orders = [
        GritPlanner(4, seed=seed, search_space=20).plan(epoch, embeddings, 50).order_N.tolist()
        for seed, epoch in [(0, 1), (0, 1), (1, 1), (0, 3)]
    ]
    assert orders[0] == orders[1] and orders[0] != orders[2] and orders[0] != orders[3]


def test_two_arrays_by_hand():
    """Two kinds of look-alikes: every batch of two holds one kind, whichever record the chain starts from."""
    image = np.array([[3, 0], [0, 3], [3, 0], [0, 3]], np.float32)
    text = np.array([[2, 0], [0, 2], [1, 0], [0, 1]], np.float32)
    plan = GritPlanner(2).plan(1, (image, text), 4)
    assert plan.sampling == "grit"
    assert sorted(sorted(batch) for batch in plan.batches(0).tolist()) == [[0, 2], [1, 3]]


@pytest.mark.parametrize("search_space", [70, "all"])
@pytest.mark.parametrize("siblings", ["free", "apart"])
def test_two_arrays_give_the_plan_that_the_store_gives(tmp_path, search_space, siblings):
    n, image_id, lead = 300, np.arange(300) // 3, np.array([299, 7])
    image, text = (rows.astype(np.float16) for rows in clusters(n))
    store = EmbeddingStore(tmp_path, n, image.shape[1], "f")
    store.begin_epoch(0, n)
    store.write(np.arange(n), image, text)
    planner = GritPlanner(8, world=2, search_space=search_space, siblings=siblings)
    plan = planner.plan(1, (image, text), n, lead, image_id)
    same = planner.plan(1, store.gather(0), n, lead, image_id)
    assert plan.order_N.tolist() == same.order_N.tolist()
    assert plan.stats == same.stats and plan.sampling == same.sampling == "grit"


@pytest.mark.parametrize(
    ("image", "text", "message"),
    [
        (np.ones((4, 2)), np.ones((5, 2)), "shapes"),
        (np.ones((4, 2)), np.ones((4, 3)), "shapes"),
        (np.ones(4), np.ones(4), "shapes"),
        (np.ones((5, 2)), np.ones((5, 2)), "N = 4 records"),
        (np.full((4, 2), np.nan), np.ones((4, 2)), "NaN"),
        (np.ones((4, 2)), np.full((4, 2), np.inf), "infinity"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(image, text, message):
    with pytest.raises(ValueError, match=message):
        GritPlanner(2).plan(1, (image, text), 4)


def test_records_without_embeddings_come_first(tmp_path):
    store = EmbeddingStore(tmp_path, 30, 4, "f")
    store.begin_epoch(0, 20)
    image, text = clusters(30, dim=4)
    store.write(np.arange(20), image[:20], text[:20])
    plan = GritPlanner(4).plan(1, store.gather(0), 30, lead=np.array([29, 3]))
    assert set(plan.order_N[:2]) == {29, 3} and set(plan.order_N[:11]) == {*range(20, 30), 3}


def test_grit_batches_are_harder_than_random_ones_and_harder_in_larger_spaces(tmp_path):
    n = 1200
    image, text = clusters(n, dim=4)
    random = GritPlanner(16).plan(0, None, n)
    embeddings = embed(tmp_path, random, n, 0)
    plans = [GritPlanner(16, search_space=m).plan(1, embeddings, n).order_N for m in (60, 300, "all")]
    values = [hardness(image, text, order, 16) for order in (random.order_N, *plans)]
    assert values == sorted(values) and values[-1] > values[0] + 0.1


def test_distinct_images_are_reported_and_siblings_kept_apart(tmp_path):
    n, image_id = 200, np.arange(200) // 5
    rows = np.repeat(clusters(40, dim=4)[0], 5, axis=0)  # five captions an image, the same embedding
    store = EmbeddingStore(tmp_path, n, 4, "f")
    store.begin_epoch(0, n)
    store.write(np.arange(n), rows, rows)
    plans = {
        siblings: GritPlanner(10, siblings=siblings).plan(1, store.gather(0), n, distinct_by=image_id)
        for siblings in ("free", "apart")
    }
    assert plans["free"].stats["distinct_images"] < 5
    assert plans["apart"].stats["distinct_images"] == 10
    assert GritPlanner(10).plan(0, None, n).stats["distinct_images"] == 10
    assert hardness(rows, rows, plans["free"].order_N, 10) == pytest.approx(1, abs=0.01)


def test_a_large_search_space_goes_through_faiss(tmp_path, monkeypatch):
    n = 1500
    monkeypatch.setattr(chain, "DENSE_LIMIT", 200)
    monkeypatch.setattr(neighbors, "FLAT_LIMIT", 500)
    random = GritPlanner(10).plan(0, None, n)
    embeddings = embed(tmp_path, random, n, 0)
    image, text = clusters(n, dim=4)
    plans = [GritPlanner(10, backend=backend).plan(1, embeddings, n).order_N for backend in ("auto", "torch")]
    assert sorted(plans[0]) == list(range(n))
    assert hardness(image, text, plans[0], 10) > 0.95 * hardness(image, text, plans[1], 10)


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ({"batch_size": 0}, "batch_size is 0"),
        ({"search_space": 0}, "search_space is 0"),
        ({"search_space": "everything"}, "search_space is 'everything'; it must be a whole number, at least 1, or all"),
        ({"sampling": "grid"}, "allowed: grit, random"),
        ({"siblings": "none"}, "allowed: apart, free"),
        ({"backend": "hnsw"}, "allowed: auto, flat, ivf, torch"),
    ],
)
def test_wrong_settings_are_reported(setting, expected):
    with pytest.raises(ValueError, match=expected):
        GritPlanner(**{"batch_size": 4, **setting})


def test_fewer_records_than_a_step_are_reported():
    with pytest.raises(ValueError, match="11 records do not fill one step of 3 x 4: lower the batch size to 3"):
        GritPlanner(4, 3).plan(0, None, 11)


def places(unused, **settings):
    return Chainer(**settings).place(unused)


def test_places_by_hand():
    assert [places(n, skip=3) for n in (10, 4, 3, 1)] == [3, 3, 2, 0]
    assert [places(11, quantile=q) for q in (1.0, 0.9, 0.5, 0.0)] == [0, 1, 5, 10]
    assert [places(n, skip=2, quantile=0.5) for n in (13, 3, 2)] == [7, 2, 1]


def test_a_chain_past_the_nearest_by_hand():
    image = np.eye(4, dtype=np.float32)
    text = np.array([[9, 1, 5, 1], [2, 9, 1, 8], [3, 0, 9, 3], [0, 7, 4, 9]], np.float32)
    # image 0: texts 2, 3, 0 of records 1, 2, 3; past record 2 → 1. Text 1: images 1 (2) and 8 (3); past 3 → 2; then 3
    assert greedy_chain(image, text, 0, skip=1).tolist() == [0, 1, 2, 3]
    # the median of three: 1; text 1's median of two is rounded to the nearer, 3; then 2
    assert greedy_chain(image, text, 0, quantile=0.5).tolist() == [0, 1, 3, 2]
    assert greedy_chain(image, text, 0, quantile=0.0).tolist() == [0, 3, 2, 1]


def plain_chain_past(image, text, start, chainer):
    similarity = image.astype(np.float64) @ text.astype(np.float64).T
    order, unused = [start], [i for i in range(len(image)) if i != start]
    while unused:
        here = order[-1]
        sim = {j: similarity[here, j] if len(order) % 2 == 1 else similarity[j, here] for j in unused}
        value = sorted(sim.values(), reverse=True)[chainer.place(len(unused))]
        order.append(min(j for j in unused if sim[j] == value))
        unused.remove(order[-1])
    return order


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 30), st.integers(0, 5), st.floats(0, 1), st.integers(0, 10**6))
def test_the_chain_past_the_nearest_is_its_definition(n, skip, quantile, seed):
    image, text = small_whole_numbers(n, 3, seed)
    chainer = Chainer(skip=skip, quantile=quantile)
    assert chainer.chain(image, text, 0).tolist() == plain_chain_past(image, text, 0, chainer)


def test_what_passes_the_nearest_needs_all_similarities():
    with pytest.raises(ValueError, match="quantile 1.5"):
        GritPlanner(4, quantile=1.5)
    with pytest.raises(ValueError, match="at most 10000 records"):
        GritPlanner(4, skip_nearest=1).plan(0, None, 20_000)
    assert len(GritPlanner(4, skip_nearest=1, search_space=500).plan(0, None, 20_000).order_N) == 20_000
