import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lavis_mafa.core.metrics import (
    average_precision,
    false_negatives,
    query_figures,
    roc_auc,
    summary,
)

# 3 images, 6 texts, two texts an image
SIM = np.array(
    [
        [0.9, 0.1, 0.8, 0.3, 0.2, 0.0],
        [0.7, 0.6, 0.5, 0.4, 0.1, 0.2],
        [0.2, 0.3, 0.4, 0.6, 0.1, 0.5],
    ]
)
OWN = np.arange(6)[None, :] // 2 == np.arange(3)[:, None]


def figures(sim, positive):
    recalls, at_r = summary(query_figures(sim, positive))
    return {**recalls, **at_r}


def test_figures_by_hand():
    # images: best own text at place 0, 2, 1; texts: own image at place 0, 2, 1, 1, 2, 0
    rank_Q, _, _, R_Q = query_figures(SIM, OWN)
    assert rank_Q.tolist() == [0, 2, 1] and R_Q.tolist() == [2, 2, 2]
    assert query_figures(SIM.T, OWN.T)[0].tolist() == [0, 2, 1, 1, 2, 0]
    # image 0: texts 0 (hit), 2 → RP 1/2, mAP@R 1/2; image 1: 0, 1 → 0, 0; image 2: 3, 5 (hit) → 1/2, 1/4
    expected = {"r1": 100 / 3, "r5": 100, "r10": 100, "r_precision": 100 / 3, "map_at_r": 25}
    assert figures(SIM, OWN) == pytest.approx(expected)
    assert figures(SIM.T, OWN.T) == pytest.approx({"r1": 200 / 6, "r5": 100, "r10": 100})  # one positive each


def test_a_collapsed_model_scores_nothing():
    positive = np.eye(6, 12, dtype=bool) | np.eye(6, 12, 6, dtype=bool)  # ten negatives before the first positive
    assert set(figures(np.zeros((6, 12)), positive).values()) == {0.0}


def test_queries_without_positives_are_left_out():
    positive = np.zeros(SIM.shape, dtype=bool)
    positive[0, 0] = positive[2, 3] = True  # image 1 has no text; texts 1, 2, 4, 5 have no image
    for found in (query_figures(SIM, positive), query_figures(SIM.T, positive.T)):
        assert found.shape == (4, 2) and summary(found)[0]["r1"] == 100.0


def brute_force(sim, positive):
    """The figures of rows with a positive, from the sorted list of each."""
    found = []
    for row, hits in zip(sim, positive, strict=True):
        if not hits.any():
            continue
        order = sorted(range(len(row)), key=lambda column: (-row[column], hits[column]))
        ranked = [bool(hits[column]) for column in order]
        R = sum(ranked)
        recall = {f"r{k}": any(ranked[:k]) for k in (1, 5, 10)}
        map_at_r = sum(sum(ranked[: k + 1]) / (k + 1) for k in range(R) if ranked[k]) / R
        found.append({**recall, "r_precision": sum(ranked[:R]) / R, "map_at_r": map_at_r})
    return {name: 100 * np.mean([row[name] for row in found]) for name in found[0]}


@settings(deadline=None, max_examples=100)
@given(st.integers(1, 6), st.integers(1, 14), st.integers(1, 4), st.integers(0, 10**6))
def test_figures_equal_their_definition_in_blocks_of_any_size(queries, columns, block, seed):
    rng = np.random.default_rng(seed)
    sim = rng.integers(0, 4, (queries, columns)).astype(np.float32)  # few values: ties
    positive = rng.random((queries, columns)) < 0.3
    positive[0, 0] = True
    starts = range(0, queries, block)
    parts = [query_figures(sim[start : start + block], positive[start : start + block]) for start in starts]
    recalls, at_r = summary(np.concatenate(parts, axis=1))
    expected = brute_force(sim, positive)
    assert recalls == pytest.approx({name: expected.pop(name) for name in ("r1", "r5", "r10")})
    assert at_r == pytest.approx(expected) if at_r else positive.sum(1).max() == 1


def test_nan_similarities_are_a_bug():
    with pytest.raises(AssertionError, match="NaN"):
        query_figures(np.full((2, 2), np.nan), np.eye(2, dtype=bool))


def test_false_negatives_by_hand():
    colour = np.array([0, 0, 1, 0, 1])
    image_id = np.array([10, 10, 20, 30, 40])

    def matches(batch):
        return colour[batch][:, None] == colour[batch][None, :]

    def known(batch):
        return image_id[batch][:, None] == image_id[batch][None, :]

    plan = [[0, 1, 3], np.array([2, 0]), [4, 2, 3]]
    assert false_negatives(plan, matches).tolist() == [6, 0, 2]
    assert false_negatives(plan, matches, known).tolist() == [4, 0, 2]
    assert false_negatives([], matches).shape == (0,)


def test_auc_and_average_precision_by_hand():
    labels, scores = [1, 0, 1, 0], [0.9, 0.8, 0.7, 0.1]
    assert roc_auc(labels, scores) == 0.75  # 3 of the 4 pairs of a positive and a negative are in order
    assert average_precision(labels, scores) == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)


def test_ties_count_half_in_auc_and_as_one_step_in_average_precision():
    assert roc_auc([1, 0, 0], [0.5, 0.5, 0.5]) == 0.5
    assert average_precision([1, 0, 0], [0.5, 0.5, 0.5]) == pytest.approx(1 / 3)
    assert average_precision([0, 1, 1], [0.5, 0.5, 0.9]) == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 4)), min_size=2, max_size=12))
def test_auc_and_average_precision_equal_the_definition(items):
    labels, scores = (list(column) for column in zip(*items, strict=True))
    if all(labels) or not any(labels):
        with pytest.raises(ValueError, match="a positive and a negative"):
            roc_auc(labels, scores)
        return
    positives = [score for label, score in items if label]
    negatives = [score for label, score in items if not label]
    wins = [1.0 if p > n else 0.5 if p == n else 0.0 for p in positives for n in negatives]
    assert roc_auc(labels, scores) == pytest.approx(np.mean(wins))
    precision = [sum(p >= score for p in positives) / sum(s >= score for s in scores) for score in positives]
    assert average_precision(labels, scores) == pytest.approx(np.mean(precision))


def test_no_match_at_all_is_told() -> None:
    with pytest.raises(ValueError, match="no query has a match"):
        summary(query_figures(SIM, np.zeros(SIM.shape, dtype=bool)))
