import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from lavis_mafa.core.losses import (
    connection_masks,
    consistency_targets,
    distilled,
    itc_loss,
    itc_targets,
    itm_accuracy,
    itm_labels,
    itm_loss,
    label_mass,
    label_smooth,
    managed_itc_targets,
    smooth_own_columns,
    soft_cross_entropy,
    token_loss,
)
from lavis_mafa.core.pairs import SettledPairs, known_positives, own_positives


def pairs(*rows):
    image, text, label, from_text = torch.tensor(rows).T if rows else torch.empty(4, 0, dtype=torch.long)
    return SettledPairs(image, text, label, from_text.bool())


def logits(B, W, seed=0):
    return torch.randn(B, W, generator=torch.Generator().manual_seed(seed)) * 5


def test_a_connection_stands_only_in_its_anchors_row_and_direction():
    settled = pairs((1, 0, 1, 1), (0, 1, 1, 0), (1, 0, 0, 0))  # text 0 → image 1, image 0 → text 1, a negative
    i2t, t2i = connection_masks(settled, B=2, W=5, first_col=2)
    assert i2t.nonzero().tolist() == [[0, 3]]
    assert t2i.nonzero().tolist() == [[0, 3]]
    settled = pairs((0, 1, 1, 1))
    i2t, t2i = connection_masks(settled, B=2, W=2)
    assert i2t.nonzero().tolist() == []
    assert t2i.nonzero().tolist() == [[1, 0]]


def test_itc_targets_by_hand():
    known = torch.tensor([[True, False, True, False], [False, False, False, False]])
    connected = torch.tensor([[False, False, True, True], [False, False, False, False]])
    targets = itc_targets(torch.tensor([0, 1]), known, connected)
    third = 1 / 3  # own and known at column 0, known and connected at 2, connected at 3
    assert torch.allclose(targets, torch.tensor([[third, 0, third, third], [0, 1, 0, 0]]))


def test_s_itc_smooths_the_ranks_own_columns_alone():
    targets = smooth_own_columns(torch.tensor([[0.0, 1.0, 0.0, 0.0]]), alpha=0.5, first_col=1, B=2)
    assert targets.tolist() == [[0.0, 0.75, 0.25, 0.0]]


def test_label_smoothing_reaches_all_columns():
    assert torch.allclose(label_smooth(torch.tensor([[0.0, 1.0]]), 0.1), torch.tensor([[0.05, 0.95]]))


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 6), st.integers(0, 3), st.integers(0, 3), st.floats(0, 1), st.data())
def test_target_rows_sum_to_one(B, before, after, alpha, data):
    W = B + before + after
    ids = st.lists(st.integers(0, B), min_size=W, max_size=W)
    image_id, text_id = torch.tensor(data.draw(ids)), torch.tensor(data.draw(ids))
    own = slice(before, before + B)
    known = known_positives(image_id[own], text_id[own], image_id, text_id)
    row = st.tuples(st.integers(0, B - 1), st.integers(0, B - 1), st.integers(0, 1), st.integers(0, 1))
    settled = pairs(*data.draw(st.lists(row, max_size=2 * B)))
    for targets in managed_itc_targets(settled, known, before, alpha, label_smoothing=0.1):
        assert targets.shape == (B, W)
        assert torch.allclose(targets.sum(dim=1), torch.ones(B))
        assert (targets >= 0).all()


@pytest.mark.parametrize("first_col", [0, 3])
def test_with_nothing_to_manage_itc_is_that_of_blip2(first_col):
    B, W = 4, 8
    i2t, t2i = logits(B, W, 1), logits(B, W, 2)
    targets = managed_itc_targets(pairs(), own_positives(B, W, first_col), first_col, 0.0, label_smoothing=0.1)
    own = torch.arange(first_col, first_col + B)
    plain = (F.cross_entropy(i2t, own, label_smoothing=0.1) + F.cross_entropy(t2i, own, label_smoothing=0.1)) / 2
    assert torch.allclose(itc_loss(i2t, t2i, *targets), plain, rtol=1e-6, atol=0)


def test_without_any_smoothing_itc_is_plain_cross_entropy():
    i2t, t2i = logits(4, 4, 1), logits(4, 4, 2)
    targets = managed_itc_targets(pairs(), own_positives(4, 4), 0, alpha=0.0, label_smoothing=0.0)
    plain = (F.cross_entropy(i2t, torch.arange(4)) + F.cross_entropy(t2i, torch.arange(4))) / 2
    assert torch.allclose(itc_loss(i2t, t2i, *targets), plain, rtol=1e-6, atol=0)


def test_s_itc_stands_in_for_label_smoothing():
    own = own_positives(2, 4, first_col=2)
    i2t, t2i = managed_itc_targets(pairs(), own, 2, alpha=0.5, label_smoothing=0.1)
    assert i2t.tolist() == t2i.tolist() == [[0.0, 0.0, 0.75, 0.25], [0.0, 0.0, 0.25, 0.75]]


def test_a_connection_is_pulled_closer():
    sim = torch.zeros(2, 2, requires_grad=True)
    targets = managed_itc_targets(pairs((0, 1, 1, 0)), own_positives(2, 2), 0, 0.0, 0.0)
    itc_loss(sim, torch.zeros(2, 2), *targets).backward()
    assert torch.allclose(sim.grad, torch.tensor([[0.0, 0.0], [0.125, -0.125]]))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_losses_are_computed_in_float32(dtype):
    half = logits(4, 4).to(dtype)
    targets = torch.eye(4)
    assert soft_cross_entropy(half, targets).equal(soft_cross_entropy(half.float(), targets))
    assert soft_cross_entropy(half, targets.to(dtype)).dtype == torch.float32
    labels = torch.tensor([1, 0, 0, 1])
    assert itm_loss(half[:, :2], labels).equal(itm_loss(half[:, :2].float(), labels))


def test_itm_takes_own_pairs_then_settled_ones():
    settled = pairs((0, 1, 0, 1), (1, 0, 1, 1))
    labels = itm_labels(2, settled)
    assert labels.tolist() == [1, 1, 0, 1]
    scores = logits(4, 2)
    assert torch.allclose(itm_loss(scores, labels), F.cross_entropy(scores, labels))
    assert itm_labels(3, pairs()).tolist() == [1, 1, 1]


def test_itm_of_no_pair_is_zero_and_has_a_gradient():
    scores = torch.empty(0, 2, requires_grad=True)
    loss = itm_loss(scores, torch.empty(0, dtype=torch.long))
    loss.backward()
    assert loss.item() == 0.0
    assert scores.grad.shape == (0, 2)


LN3 = 1.0986122886681098  # softmax of (ln 3, 0) is (3/4, 1/4)


def test_momentum_distillation_by_hand():
    targets = distilled(torch.tensor([[0.0, 1.0]]), torch.tensor([[LN3, 0.0]]), alpha=0.4)
    assert torch.allclose(targets, torch.tensor([[0.3, 0.7]]))  # 0.6·(0, 1) + 0.4·(3/4, 1/4)


def test_consistency_by_hand():
    """i2t rows (3/4, 1/4), t2i rows (1/2, 1/2): each learns the other's."""
    i2t, t2i = torch.tensor([[LN3, 0.0]]), torch.tensor([[0.0, 0.0]])
    learns_t2i = -(math.log(0.75) + math.log(0.25)) / 2
    learns_i2t = math.log(2)
    assert itc_loss(i2t, t2i, *consistency_targets(i2t, t2i)).item() == pytest.approx(
        (learns_t2i + learns_i2t) / 2, abs=1e-6
    )


def test_consistency_has_the_gradient_of_the_kl_divergence():
    i2t, t2i = logits(3, 4).requires_grad_(), logits(3, 4, seed=1).requires_grad_()
    itc_loss(i2t, t2i, *consistency_targets(i2t, t2i)).backward()
    found = i2t.grad.clone(), t2i.grad.clone()
    i2t.grad = t2i.grad = None
    pairs_of = ((i2t, t2i), (t2i, i2t))
    kl = [F.kl_div(own.log_softmax(1), other.detach().softmax(1), reduction="batchmean") for own, other in pairs_of]
    (sum(kl) / 2).backward()
    for grad, parameter in zip(found, (i2t, t2i), strict=True):
        torch.testing.assert_close(grad, parameter.grad)


def test_token_loss_by_hand():
    words, label = torch.tensor([[LN3, 0.0], [0.0, 0.0]]), torch.tensor([0, 1])
    plain = -(math.log(0.75) + math.log(0.5)) / 2
    assert token_loss(words, label).item() == pytest.approx(plain, abs=1e-6)
    teacher = torch.tensor([[0.0, 0.0], [LN3, 0.0]])
    taught = (-(math.log(0.75) + math.log(0.25)) / 2 + math.log(2)) / 2
    assert token_loss(words, label, teacher, 0.4).item() == pytest.approx(0.6 * plain + 0.4 * taught, abs=1e-6)
    none = torch.empty(0, 2, requires_grad=True)
    assert token_loss(none, label[:0], none, 0.4).item() == 0.0


def test_soft_labels_are_what_con_d_says_beside_the_own_pairs():
    settled = SettledPairs(
        *torch.tensor([[0, 1], [1, 0], [0, 0]]), torch.tensor([True, True]), torch.tensor([0.25, 0.9])
    )
    labels = itm_labels(1, settled)
    assert torch.allclose(labels, torch.tensor([[0.0, 1.0], [0.75, 0.25], [0.1, 0.9]]))
    logits = torch.log(torch.tensor([[0.5, 0.5], [0.5, 0.5], [0.2, 0.8]]))
    expected = (math.log(2) + math.log(2) - 0.1 * math.log(0.2) - 0.9 * math.log(0.8)) / 3
    assert itm_loss(logits, labels).item() == pytest.approx(expected, abs=1e-6)


def test_label_mass_by_hand():
    targets = torch.tensor([[[0.6, 0.3, 0.1], [0.0, 1.0, 0.0], [0.2, 0.2, 0.6]], [[0.5, 0.5, 0.0]] * 3])
    marked = torch.tensor([[False, True, True], [False, False, False], [True, False, False]])  # (image, text)
    i2t, t2i = label_mass(targets, marked)
    assert torch.allclose(i2t, torch.tensor([0.4, 0.0, 0.2]))
    assert torch.allclose(t2i, torch.tensor([0.0, 0.5, 0.5]))  # text 1 and 2 with image 0, text 0 with image 2


def test_a_matching_head_that_always_says_no_stands_at_a_half() -> None:
    no_K2, labels = torch.tensor([[1.0, 0.0]]).repeat(3, 1), torch.tensor([1, 0, 0])
    assert itm_accuracy(no_K2, labels).item() == 0.5
    assert itm_accuracy(no_K2.flip(1), labels).item() == 0.5
    assert itm_accuracy(no_K2[:2], labels[1:]).item() == 1.0, "of mismatches alone"
    assert itm_accuracy(no_K2[:0], labels[:0]).item() == 0.0, "of no pair"


def test_a_distilled_match_counts_as_one_above_a_half() -> None:
    yes_K2, p_K = torch.tensor([[0.0, 1.0]]).repeat(3, 1), torch.tensor([1.0, 0.6, 0.4])
    assert itm_accuracy(yes_K2, torch.stack([1 - p_K, p_K], dim=1)).item() == 0.5
