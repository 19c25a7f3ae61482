import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lavis_mafa.core.metrics import (
    average_precision,
    false_negatives,
    precision_at_r,
    query_figures,
    recall_at_k,
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
TEXTS = [[0, 1], [2, 3], [4, 5]]


def test_recall_by_hand():
    # images: best own text at place 0, 2, 1; texts: own image at place 0, 2, 1, 1, 2, 0
    assert recall_at_k(SIM, TEXTS, ks=(1, 2, 3)) == pytest.approx(
        {
            "txt_r1": 100 / 3,
            "txt_r2": 200 / 3,
            "txt_r3": 100,
            "img_r1": 200 / 6,
            "img_r2": 400 / 6,
            "img_r3": 100,
        }
    )


def test_precision_at_r_by_hand():
    # image 0: texts 0 (hit), 2 → RP 1/2, mAP@R 1/2; image 1: 0, 1 → 0, 0; image 2: 3, 5 (hit) → 1/2, 1/4
    precisions = precision_at_r(SIM, TEXTS)
    assert precisions["txt_r_precision"] == pytest.approx(100 / 3)
    assert precisions["txt_map_at_r"] == pytest.approx(25)
    assert precisions["img_r_precision"] == precisions["img_map_at_r"] == pytest.approx(200 / 6)  # R is 1: R@1


def test_a_mask_says_the_same_as_lists():
    mask = np.zeros(SIM.shape, dtype=bool)
    for image, texts in enumerate(TEXTS):
        mask[image, texts] = True
    assert recall_at_k(SIM, mask) == recall_at_k(SIM, TEXTS)
    assert precision_at_r(SIM, mask) == precision_at_r(SIM, TEXTS)


def test_a_collapsed_model_scores_nothing():
    flat = np.zeros((4, 4))
    assert recall_at_k(flat, np.eye(4, dtype=bool), ks=(1, 3)) == dict.fromkeys(
        ["txt_r1", "txt_r3", "img_r1", "img_r3"], 0.0
    )
    assert set(precision_at_r(flat, np.eye(4, dtype=bool)).values()) == {0.0}


def test_queries_without_positives_are_left_out():
    positives = [[0], [], [3]]  # image 1 has no text; texts 1, 2, 4, 5 have no image
    recalls = recall_at_k(SIM, positives, ks=(1,))
    assert recalls == {"txt_r1": 100.0, "img_r1": 100.0}
    with pytest.raises(ValueError, match="positives"):
        recall_at_k(SIM, [[], [], []])


def brute_force(sim, positive):
    """R@2, R-precision and mAP@R of rows, from the sorted list of each."""
    recall, r_precision, map_at_r = [], [], []
    for row, hits in zip(sim, positive, strict=True):
        if not hits.any():
            continue
        order = sorted(range(len(row)), key=lambda column: (-row[column], hits[column]))
        ranked = [bool(hits[column]) for column in order]
        R = sum(ranked)
        recall.append(any(ranked[:2]))
        r_precision.append(sum(ranked[:R]) / R)
        map_at_r.append(sum(sum(ranked[: k + 1]) / (k + 1) for k in range(R) if ranked[k]) / R)
    return [100 * np.mean(values) for values in (recall, r_precision, map_at_r)]


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 5), st.integers(1, 6), st.integers(1, 4), st.integers(0, 10**6))
def test_metrics_equal_the_definition_in_blocks_of_any_size(images, texts, block, seed):
    rng = np.random.default_rng(seed)
    sim = rng.integers(0, 4, (images, texts)).astype(np.float32)  # few values: ties
    positive = rng.random((images, texts)) < 0.4
    positive[rng.integers(images), rng.integers(texts)] = True
    recalls, precisions = recall_at_k(sim, positive, ks=(2,), block=block), precision_at_r(sim, positive, block)
    for name, (rows, hits) in {"txt": (sim, positive), "img": (sim.T, positive.T)}.items():
        found = [recalls[f"{name}_r2"], precisions[f"{name}_r_precision"], precisions[f"{name}_map_at_r"]]
        assert found == pytest.approx(brute_force(rows, hits))


def test_nan_similarities_are_a_bug():
    with pytest.raises(AssertionError, match="NaN"):
        recall_at_k(np.full((2, 2), np.nan), np.eye(2, dtype=bool))


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


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 6), st.integers(1, 9), st.integers(0, 2**32 - 1))
def test_figures_of_blocks_are_those_of_the_whole_with_ties(queries: int, columns: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    sim = rng.integers(0, 4, (queries, columns)).astype(np.float32)
    positive = rng.random((queries, columns)) < 0.3
    positive[0, 0] = True
    parts = [query_figures(sim[part : part + 2], positive[part : part + 2]) for part in range(0, queries, 2)]
    recalls, at_r = summary(np.concatenate(parts, axis=1))
    whole = recall_at_k(sim, positive)
    assert recalls == pytest.approx({f"r{k}": whole[f"txt_r{k}"] for k in (1, 5, 10)})
    expected = precision_at_r(sim, positive)
    if at_r:
        assert at_r == pytest.approx({name: expected[f"txt_{name}"] for name in ("r_precision", "map_at_r")})
    else:
        assert positive.sum(1).max() == 1


def test_no_match_at_all_is_told() -> None:
    with pytest.raises(ValueError, match="no query has a match"):
        summary(query_figures(SIM, np.zeros(SIM.shape, dtype=bool)))
