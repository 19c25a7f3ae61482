import itertools

import numpy as np
import pyarrow as pa
import pytest

from lavis_mafa.core.plan import Plan
from lavis_mafa.data.records import RecordTable
from lavis_mafa.mining.batches import grit_plan, meetings
from lavis_mafa.mining.candidates import CandidatePairs
from lavis_mafa.mining.corpus import Corpus

ROWS = [("a.jpg", ["one", "two"]), ("b.jpg", ["three"]), ("c.jpg", ["two", "four"]), ("d.jpg", ["five"])]


def corpus():
    columns = {"image": [image for image, _ in ROWS], "caption": [captions for _, captions in ROWS]}
    return Corpus.of(RecordTable.from_rows(pa.table(columns), dataset="test"))


def every_pair(n_texts):
    record_K, text_K = (grid.ravel().astype(np.int32) for grid in np.meshgrid(range(4), range(n_texts), indexing="ij"))
    zeros = np.zeros(len(record_K), np.int32)
    return CandidatePairs(record_K, text_K, zeros.astype(np.float32), zeros, zeros)


def by_hand(batches):
    """Mean over the batches of the chance that image r and caption t meet: every draw of captions written out."""
    found = np.zeros((4, 5))
    names = ["one", "two", "three", "four", "five"]
    for batch in batches:
        draws = list(itertools.product(*(ROWS[record][1] for record in batch)))
        for captions in draws:
            for (at, record), (other, caption) in itertools.product(enumerate(batch), enumerate(captions)):
                if at != other:
                    found[record, names.index(caption)] += 1 / len(draws) / len(batches)
    return found.ravel()


def test_random_batches_by_all_of_them():
    world = corpus()
    batches = list(itertools.permutations(range(4), 3))
    np.testing.assert_allclose(meetings(world, every_pair(world.n_texts), 3), by_hand(batches))


def test_planned_batches_by_hand():
    world = corpus()
    plan = Plan(np.array([0, 2, 3, 1]), 1, 2, 1, "grit", "all")
    np.testing.assert_allclose(meetings(world, every_pair(world.n_texts), 2, plan), by_hand([(0, 2), (3, 1)]))


def test_records_that_are_left_over_meet_nobody():
    world = corpus()
    plan = Plan(np.array([0, 2, 3, 1]), 1, 3, 1, "grit", "all")
    np.testing.assert_allclose(meetings(world, every_pair(world.n_texts), 3, plan), by_hand([(0, 2, 3)]))


def test_grit_puts_look_alikes_together():
    """Images have two vectors; the one that fits the first caption is planned with. 0 and 3 look alike, 1 and 2 do."""
    texts = np.eye(4, dtype=np.float16)[[0, 3, 1, 2, 0]]  # one, two, three, four, five
    texts[1] = np.eye(4)[1]  # two: the first caption of record 2
    images = np.zeros((4, 2, 4), np.float16)
    images[:, 0] = np.eye(4)[[3, 2, 3, 2]]
    images[:, 1] = np.eye(4)[[0, 1, 1, 0]]
    plan = grit_plan(corpus(), images, texts, 2, "all", seed=0)
    assert sorted(sorted(batch) for batch in plan.batches(0).tolist()) == [[0, 3], [1, 2]]


def test_more_of_a_batch_means_more_meetings():
    world = corpus()
    pairs = every_pair(world.n_texts)
    assert meetings(world, pairs, 4) == pytest.approx(6 * meetings(world, pairs, 2))
