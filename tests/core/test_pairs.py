import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lavis_mafa.core.pairs import (
    AMBIGUOUS,
    CONNECTION,
    NEGATIVE,
    Candidates,
    SettledPairs,
    hardest_pairs,
    judge,
    known_positives,
    near_own,
    own_positives,
    sampled_pairs,
    sampling_weights,
    settle,
)

EYE3 = torch.eye(3, dtype=torch.bool)
SIM_I2T = torch.tensor([[9.0, 5.0, 7.0], [1.0, 9.0, 2.0], [4.0, 4.0, 9.0]])  # rows: images
SIM_T2I = torch.tensor([[9.0, 3.0, 6.0], [5.0, 9.0, 1.0], [8.0, 2.0, 9.0]])  # rows: texts


def rows(candidates):
    columns = (candidates.image_C, candidates.text_C, candidates.spare_image_C, candidates.spare_text_C)
    return list(zip(*(column.tolist() for column in columns), candidates.from_text_C.tolist(), strict=True))


def settled_rows(settled):
    columns = (settled.image_K, settled.text_K, settled.label_K, settled.from_text_K)
    return list(zip(*(column.tolist() for column in columns), strict=True))


def candidates_of(*rows):
    columns = [torch.tensor(column) for column in zip(*rows, strict=True)]
    return Candidates(*columns[:4], columns[4].bool())


def test_hardest_pairs_by_hand():
    assert rows(hardest_pairs(SIM_I2T, SIM_T2I, EYE3)) == [
        (2, 0, 1, 0, True),
        (0, 1, 2, 1, True),
        (0, 2, 1, 2, True),
        (0, 2, 0, 1, False),
        (1, 2, 1, 0, False),
        (2, 0, 2, 1, False),  # a tie: the lowest index is the hardest, the next its spare
    ]


def test_known_positives_are_never_chosen():
    excluded = EYE3.clone()
    excluded[0, 2] = excluded[2, 0] = True  # images 0 and 2 are siblings
    assert rows(hardest_pairs(SIM_I2T, SIM_T2I, excluded)) == [
        (1, 0, -1, -1, True),
        (0, 1, 2, 1, True),
        (1, 2, -1, -1, True),
        (0, 1, -1, -1, False),
        (1, 2, 1, 0, False),
        (2, 1, -1, -1, False),
    ]


def test_the_excluded_mask_is_read_as_image_by_text():
    excluded = EYE3.clone()
    excluded[2, 0] = True  # image 2 with text 0 alone
    pairs = [row[:2] for row in rows(hardest_pairs(SIM_I2T, SIM_T2I, excluded))]
    assert pairs == [(1, 0), (0, 1), (0, 2), (0, 2), (1, 2), (2, 1)]
    ones = torch.ones(3, 3)
    sampled = rows(sampled_pairs(ones, ones, excluded, torch.Generator().manual_seed(0)))
    assert sampled[0][:2] == (1, 0) and sampled[5][:2] == (2, 1)


def test_batch_of_one_has_no_pairs():
    one = torch.ones(1, 1)
    assert rows(hardest_pairs(one, one, one.bool())) == []
    assert rows(sampled_pairs(one, one, one.bool(), torch.Generator())) == []


def test_batch_of_two_has_no_spares():
    sim = torch.tensor([[1.0, 0.5], [0.2, 1.0]])
    expected = [(1, 0, -1, -1, True), (0, 1, -1, -1, True), (0, 1, -1, -1, False), (1, 0, -1, -1, False)]
    assert rows(hardest_pairs(sim, sim, torch.eye(2, dtype=torch.bool))) == expected


def test_batch_of_one_caption_has_no_pairs():
    everything = torch.ones(3, 3, dtype=torch.bool)
    candidates = hardest_pairs(SIM_I2T, SIM_T2I, everything)
    assert rows(candidates) == []
    settled, counts = settle(candidates, torch.empty(0), 0.5, 0.8)
    assert settled_rows(settled) == settled_rows(settled.once()) == []
    assert set(counts.values()) == {0}


def greedy_top_two(sim, excluded):
    """The definition, in plain Python."""
    found = []
    for row, closed in zip(sim.tolist(), excluded.tolist(), strict=True):
        open_columns = sorted((-value, column) for column, value in enumerate(row) if not closed[column])
        found.append([column for _, column in open_columns[:2]] + [-1] * (2 - len(open_columns[:2])))
    return found


@st.composite
def batches(draw):
    B = draw(st.integers(1, 7))
    few = st.integers(0, 3)  # few values, so that ties are common
    sims = [
        torch.tensor(draw(st.lists(few, min_size=B * B, max_size=B * B)), dtype=torch.float32).view(B, B)
        for _ in range(2)
    ]
    identity = torch.tensor(draw(st.lists(st.integers(0, B), min_size=B, max_size=B)))
    captions = torch.tensor(draw(st.lists(st.integers(0, 2 * B), min_size=B, max_size=B)))
    return *sims, known_positives(identity, captions)


@settings(deadline=None, max_examples=60)
@given(batches(), st.sampled_from([torch.float32, torch.bfloat16, torch.float16]))
def test_hardest_pairs_equal_the_definition(batch, dtype):
    sim_i2t, sim_t2i, excluded = batch
    texts = enumerate(greedy_top_two(sim_t2i, excluded.T))
    images = enumerate(greedy_top_two(sim_i2t, excluded))
    expected = [(best, t, spare, t if spare >= 0 else -1, True) for t, (best, spare) in texts if best >= 0]
    expected += [(i, best, i if spare >= 0 else -1, spare, False) for i, (best, spare) in images if best >= 0]
    assert rows(hardest_pairs(sim_i2t.to(dtype), sim_t2i.to(dtype), excluded)) == expected


@settings(deadline=None, max_examples=40)
@given(batches(), st.integers(0, 9))
def test_sampled_pairs_are_open_and_follow_the_generator(batch, seed):
    sim_i2t, sim_t2i, excluded = batch
    weights = sampling_weights(sim_i2t), sampling_weights(sim_t2i)
    drawn, again = (sampled_pairs(*weights, excluded, torch.Generator().manual_seed(seed)) for _ in range(2))
    assert rows(drawn) == rows(again)
    assert not excluded[drawn.image_C, drawn.text_C].any()
    assert len(drawn.image_C) == int((~excluded).any(dim=0).sum() + (~excluded).any(dim=1).sum())
    assert (drawn.spare_image_C == -1).all() and (drawn.spare_text_C == -1).all()
    spared = sampled_pairs(*weights, excluded, torch.Generator().manual_seed(seed), spares=True)
    assert [row[:2] for row in rows(spared)] == [row[:2] for row in rows(drawn)]  # the first draws are the same
    for image, text, spare_image, spare_text, from_text in rows(spared):
        others = (~excluded[:, text] if from_text else ~excluded[image]).sum() - 1
        assert (spare_image < 0) == (spare_text < 0) == bool(others == 0)
        if others:
            assert (spare_text == text) if from_text else (spare_image == image)
            assert (spare_image, spare_text) != (image, text) and not excluded[spare_image, spare_text]


def test_sampled_pairs_follow_the_weights():
    weights = torch.zeros(3, 3)
    weights[0, 2] = weights[1, 0] = weights[2, 1] = 1.0
    drawn = sampled_pairs(weights, weights, EYE3, torch.Generator().manual_seed(0))
    assert drawn.image_C.tolist() == [2, 0, 1, 0, 1, 2]
    assert drawn.text_C.tolist() == [0, 1, 2, 2, 0, 1]


def test_sampling_weights_are_those_of_blip2():
    weights = sampling_weights(torch.tensor([[0.0, 1.0]]).log())
    assert torch.allclose(weights, torch.tensor([[1e-4, 1 + 1e-4]]))


def test_known_positives_by_image_or_caption():
    known = known_positives(torch.tensor([1, 2, 1]), torch.tensor([7, 8, 8]))
    assert known.int().tolist() == [[1, 0, 1], [0, 1, 1], [1, 1, 1]]


def test_known_positives_among_gathered_columns():
    known = known_positives(torch.tensor([1]), torch.tensor([7]), torch.tensor([5, 1, 2]), torch.tensor([7, 9, 8]))
    assert known.int().tolist() == [[1, 1, 0]]


def test_own_positives_stand_at_the_ranks_columns():
    assert own_positives(2, 4, first_col=2).int().tolist() == [[0, 0, 1, 0], [0, 0, 0, 1]]


def test_pairs_near_the_own_pair_by_hand():
    """Own similarities 0.5, -0.5, 0: at a share of 0.9 what reaches 0.45, -0.55, 0 is near."""
    sim_i2t = torch.tensor([[0.5, 0.46, 0.44], [-0.49, -0.5, -0.56], [0.0, -0.1, 0.0]])
    i2t, t2i = near_own(sim_i2t, -sim_i2t, 0.9)
    assert i2t.tolist() == [[True, True, False], [True, True, False], [True, False, True]]
    # own similarities -0.5, 0.5, 0: bounds -0.55, 0.45, 0
    assert t2i.tolist() == [[True, True, True], [True, True, True], [True, True, True]]


def test_a_bound_itself_is_ambiguous():
    p = torch.tensor([0.0, 0.49, 0.5, 0.65, 0.8, 0.81, 1.0])
    expected = [NEGATIVE, NEGATIVE, AMBIGUOUS, AMBIGUOUS, AMBIGUOUS, CONNECTION, CONNECTION]
    assert judge(p, 0.5, 0.8).tolist() == judge(p.numpy(), 0.5, 0.8).tolist() == expected


# one row of each verdict, an ambiguous one without spare, all anchored at texts
FOUR = candidates_of((1, 0, 2, 0, 1), (2, 1, 3, 1, 1), (3, 2, 0, 2, 1), (0, 3, -1, -1, 1))
P_FOUR = torch.tensor([0.9, 0.1, 0.6, 0.7])


@pytest.mark.parametrize(
    ("action", "expected", "spares"),
    [
        ("connect", [(1, 0, 1, True), (2, 1, 0, True), (0, 2, 0, True)], 1),
        ("drop", [(2, 0, 0, True), (2, 1, 0, True), (0, 2, 0, True)], 2),
        ("keep", [(1, 0, 0, True), (2, 1, 0, True), (3, 2, 0, True), (0, 3, 0, True)], 0),
    ],
)
def test_settle_by_hand(action, expected, spares):
    settled, counts = settle(FOUR, P_FOUR, 0.5, 0.8, action)
    assert settled_rows(settled) == expected
    assert counts == {"candidates": 4, "connections": 1, "ambiguous": 2, "negatives": 1, "spares": spares}
    assert settled.label_K.dtype == torch.long
    assert settled.connections.tolist() == [label == 1 for _, _, label, _ in expected]


def test_nothing_scored_makes_negatives():
    settled, counts = settle(FOUR, None, 0.0, 0.8, "drop")
    assert settled_rows(settled) == [(1, 0, 0, True), (2, 1, 0, True), (3, 2, 0, True), (0, 3, 0, True)]
    assert counts == {"candidates": 4, "connections": 0, "ambiguous": 0, "negatives": 4, "spares": 0}


@pytest.mark.parametrize(("p_spare", "expected"), [(0.9, [1]), (0.1, [0]), (0.6, []), (float("nan"), [0])])
def test_a_verified_spare_follows_its_own_verdict(p_spare, expected):
    candidates = candidates_of((1, 0, 2, 0, 1))
    settled, counts = settle(candidates, torch.tensor([0.6]), 0.5, 0.8, spare_p_C=torch.tensor([p_spare]))
    assert [(image, label) for image, _, label, _ in settled_rows(settled)] == [(2, label) for label in expected]
    assert counts["spares"] == len(expected)


# text 0's hardest image 1 is ambiguous, its spare is image 2; image 2's hardest text is text 0
CONFLICT = candidates_of((1, 0, 2, 0, 1), (2, 0, 2, 1, 0))


@pytest.mark.parametrize(
    ("p", "action", "expected"),
    [
        (0.9, "connect", [(2, 0, 1, True), (2, 0, 1, False)]),
        (0.6, "connect", [(2, 1, 0, False)]),
        (0.1, "connect", [(2, 0, 0, True), (2, 0, 0, False)]),
        (0.9, "drop", [(2, 1, 0, False)]),
    ],
)
def test_a_verdict_wins_over_an_unverified_spare(p, action, expected):
    settled, _ = settle(CONFLICT, torch.tensor([0.6, p]), 0.5, 0.8, action)
    assert settled_rows(settled) == expected


def test_without_reconciling_the_contradiction_stays():
    settled, _ = settle(CONFLICT, torch.tensor([0.6, 0.9]), 0.5, 0.8, reconcile=False)
    assert settled_rows(settled) == [(2, 0, 0, True), (2, 0, 1, False)]
    assert settled_rows(settled.once()) == [(2, 0, 1, True)]


def test_once_keeps_the_first_row_of_each_pair():
    settled = SettledPairs(
        torch.tensor([3, 1, 3, 0, 1]),
        torch.tensor([2, 4, 2, 0, 3]),
        torch.tensor([1, 0, 1, 0, 1]),
        torch.tensor([True, True, False, False, False]),
    )
    assert settled_rows(settled.once()) == [(3, 2, 1, True), (1, 4, 0, True), (0, 0, 0, False), (1, 3, 1, False)]


@settings(deadline=None, max_examples=80)
@given(batches(), st.data(), st.sampled_from(["connect", "drop", "keep"]), st.booleans())
def test_settled_pairs_follow_the_rule_of_efficient_connection_mining(batch, data, action, verify):
    *sims, excluded = batch
    candidates = hardest_pairs(*sims, excluded)
    score = torch.tensor(data.draw(st.lists(st.sampled_from([0.1, 0.5, 0.6, 0.8, 0.9]), min_size=49, max_size=49)))
    p_pair = score.view(7, 7)  # P(match) of every pair, the same in both directions
    p = p_pair[candidates.image_C, candidates.text_C]
    spare_p = p_pair[candidates.spare_image_C, candidates.spare_text_C] if verify else None
    settled, counts = settle(candidates, p, 0.5, 0.8, action, spare_p_C=spare_p)

    pairs = settled_rows(settled)
    labels = {(image, text): label for image, text, label, _ in pairs}
    assert len(pairs) <= 2 * len(excluded)
    assert not excluded[settled.image_K, settled.text_K].any()
    assert all(labels[image, text] == label for image, text, label, _ in pairs), "no pair carries two labels"
    anchors = [(text if from_text else image, from_text) for image, text, _, from_text in pairs]
    assert len(set(anchors)) == len(anchors), "an anchor has one pair at most"
    assert all(p_pair[image, text] > 0.8 for (image, text), label in labels.items() if label == 1)
    if action != "connect":
        assert 1 not in labels.values()
    verdicts = counts["connections"] + counts["ambiguous"] + counts["negatives"]
    assert verdicts == counts["candidates"] == len(candidates.image_C)
    assert set(labels) == {(image, text) for image, text, _, _ in settled_rows(settled.once())}
    assert len(settled.once().image_K) == len(labels)
