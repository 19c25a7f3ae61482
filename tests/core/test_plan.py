import numpy as np
import pytest

from lavis_mafa.core.embeddings import EmbeddingStore
from lavis_mafa.core.grit import GritPlanner
from lavis_mafa.core.plan import Plan, PlannedBatchSampler, RandomPlanner
from lavis_mafa.core.siblings import distinct_images, keep_apart


def make_plan(n=11, batch_size=2, world=2, **others):
    order = np.random.default_rng(0).permutation(n)
    return Plan(order, 3, batch_size, world, "grit", "all", "f", {"distinct_images": 2.0}, **others)


def test_rows_of_ranks_and_steps():
    plan = Plan(np.arange(11), 0, 2, 2, "random", 5)
    assert plan.steps == 2 and plan.untrained.tolist() == [8, 9, 10]
    assert list(PlannedBatchSampler(plan, 0)) == [[0, 1], [4, 5]]
    assert list(PlannedBatchSampler(plan, 1)) == [[2, 3], [6, 7]]


def test_a_sampler_starts_at_any_step_and_knows_its_length():
    plan = make_plan(n=40)
    whole = list(PlannedBatchSampler(plan, 1))
    for start in range(plan.steps + 1):
        rest = PlannedBatchSampler(plan, 1, start)
        assert list(rest) == whole[start:] and len(rest) == len(whole) - start
    assert all(type(record) is int for batch in whole for record in batch)


def test_a_saved_plan_is_the_same(tmp_path):
    plan = make_plan()
    plan.save(tmp_path / "plans" / "plan_3.npz")
    again = Plan.load(tmp_path / "plans" / "plan_3.npz", fingerprint="f", n_records=11, batch_size=2, world=2, epoch=3)
    np.testing.assert_array_equal(again.order_N, plan.order_N)
    assert again.order_N.dtype == np.int64
    assert again.stats == plan.stats and again.search_space == "all" and again.sampling == "grit"
    assert [path.name for path in (tmp_path / "plans").iterdir()] == ["plan_3.npz"]


@pytest.mark.parametrize("key, value", [("fingerprint", "g"), ("n_records", 12), ("world", 1), ("epoch", 4)])
def test_a_foreign_plan_is_reported_with_what_differs(tmp_path, key, value):
    make_plan().save(tmp_path / "plan.npz")
    with pytest.raises(ValueError, match=f"{key} is .*, expected {value!r}"):
        Plan.load(tmp_path / "plan.npz", **{key: value})


def test_a_torn_or_missing_plan_is_reported(tmp_path):
    path = tmp_path / "plan.npz"
    with pytest.raises(ValueError, match="missing"):
        Plan.load(path)
    make_plan(n=1000).save(path)
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[500] ^= 1
    for torn in (b"", whole[:10], whole[: len(whole) // 2], whole[:-1], bytes(flipped), b"not a plan"):
        path.write_bytes(torn)
        with pytest.raises(ValueError, match="torn"):
            Plan.load(path)
    np.savez(path, other=np.arange(3))
    with pytest.raises(ValueError, match="not a readable plan"):
        Plan.load(path)


def test_a_crash_while_saving_keeps_the_old_plan(tmp_path, monkeypatch):
    path = tmp_path / "plan.npz"
    make_plan().save(path)
    before = path.read_bytes()

    def half(file, **_):
        file.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(np, "savez", half)
    with pytest.raises(KeyboardInterrupt):
        make_plan(n=20).save(path)
    assert path.read_bytes() == before and len(list(tmp_path.iterdir())) == 1


def test_distinct_images_by_hand():
    assert distinct_images(np.array([[1, 1, 2], [5, 6, 7]])) == 2.5
    assert distinct_images(np.array([[4]])) == 1


def test_siblings_wait_for_the_next_batch():
    image_id = np.array([0, 0, 1, 1, 2, 2, 3, 3])
    order = keep_apart(np.arange(8), image_id, 4)  # rows 0 and 1 are siblings, 2 and 3, …
    assert order.tolist() == [0, 2, 4, 6, 1, 3, 5, 7]


def test_siblings_left_at_the_end_are_swapped_into_earlier_batches():
    image_id = np.array([9, 8, 7, 6, 5, 5])
    order = keep_apart(np.arange(6), image_id, 2)
    assert sorted(order) == list(range(6)) and distinct_images(image_id[order].reshape(-1, 2)) == 2


@pytest.mark.parametrize("seed", range(30))
def test_siblings_are_apart_wherever_that_is_possible(seed):
    rng = np.random.default_rng(seed)
    batch_size, n_batches = rng.integers(2, 9), rng.integers(5, 12)
    image_id = np.repeat(np.arange(batch_size * n_batches), rng.integers(1, 6))[: batch_size * n_batches] * 17
    order = rng.permutation(len(image_id)) if seed % 2 else np.arange(len(image_id))
    apart = keep_apart(order, image_id, batch_size)
    assert sorted(apart) == sorted(order)
    assert distinct_images(image_id[apart].reshape(-1, batch_size)) == batch_size


def test_one_image_alone_cannot_be_kept_apart():
    assert sorted(keep_apart(np.arange(6), np.zeros(6, np.int64), 3)) == list(range(6))


@pytest.mark.parametrize(("records", "batch", "world"), [(7, 2, 1), (23, 3, 2), (12, 4, 1)])
def test_a_random_planner_draws_what_grit_draws_without_embeddings(records: int, batch: int, world: int) -> None:
    image_id_N, lead, grit_lead = np.arange(records) // 2, None, None
    random, grit = RandomPlanner(batch, world, seed=5), GritPlanner(batch, world, seed=5, sampling="random")
    for epoch in range(3):
        plan = random.plan(epoch, records, lead, image_id_N)
        expected = grit.plan(epoch, None, records, grit_lead, image_id_N)
        np.testing.assert_array_equal(plan.order_N, expected.order_N)
        assert (plan.stats, plan.sampling, plan.steps) == (expected.stats, expected.sampling, expected.steps)
        lead, grit_lead = plan.untrained, expected.untrained


@pytest.mark.parametrize("kind", [RandomPlanner, GritPlanner])
def test_records_that_are_left_out_are_in_no_plan(kind):
    """Their share of an epoch goes: no other takes their place, and those that lead do not bring them back."""
    n, bad = 40, np.array([3, 17, 38])
    good, image = np.setdiff1d(np.arange(n), bad), np.eye(n)
    before = kind(4, 2).plan(0, n_records=n, lead=None, **same(kind, n))
    lead = np.array([38, 5, 3])
    given = {"embeddings": (image, image)} if kind is GritPlanner else {}
    plan = kind(4, 2).plan(1, n_records=n, lead=lead, left_out=bad, **{**same(kind, n), **given})
    assert sorted(before.order_N) == list(range(n)) and "left_out" not in before.stats
    assert sorted(plan.order_N) == good.tolist() and plan.stats["left_out"] == 3 and plan.steps == 4
    assert plan.order_N[:8].tolist().count(5) == 1, "what leads comes first"
    with pytest.raises(ValueError, match="7 records do not fill one step of 2 x 4"):
        kind(4, 2).plan(1, n_records=n, lead=None, left_out=np.arange(33), **same(kind, n))


def same(kind, n):
    return {"embeddings": None} if kind is GritPlanner else {"image_id_N": np.arange(n)}


def test_records_that_cannot_be_read_do_not_lead_the_plan_of_their_epoch(tmp_path):
    """Without an embedding they took the first places of every plan, where nothing is chained."""
    n, bad = 200, np.arange(0, 200, 5)
    store = EmbeddingStore(tmp_path, n, 8, "f")
    store.begin_epoch(0, n)
    good = np.setdiff1d(np.arange(n), bad)
    rows = np.random.default_rng(0).standard_normal((len(good), 8))
    store.write(good, rows, rows)
    planner = GritPlanner(8)
    assert np.isin(planner.plan(1, store.gather(0), n).order_N[:40], bad).all()
    plan = planner.plan(1, store.gather(0), n, left_out=bad)
    assert sorted(plan.order_N) == good.tolist() and plan.sampling == "grit"
