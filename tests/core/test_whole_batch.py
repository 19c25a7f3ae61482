import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lavis_mafa.core import losses
from lavis_mafa.core.connections import ConnectionStore
from lavis_mafa.core.miner import ConnectionMiner
from lavis_mafa.core.pairs import own_positives
from lavis_mafa.core.settings import MafaSettings
from lavis_mafa.core.whole_batch import every_pair

# four records; image 0 and text 1 match, so do image 2 and texts 0 and 3; image 3 with text 1 is unclear
P = torch.full((4, 4), 0.1)
P[0, 1], P[2, 0], P[2, 3], P[3, 1] = 0.9, 0.95, 0.85, 0.6
SIM = torch.tensor([[9.0, 5.0, 7.0, 1.0], [1.0, 9.0, 2.0, 3.0], [6.0, 3.0, 9.0, 8.0], [2.0, 8.0, 4.0, 9.0]])


class Matrix:
    """P(match) of all pairs; remembers how many it was asked about."""

    fingerprint = "matrix"

    def __init__(self, p_BB):
        self.p_BB, self.asked = p_BB, 0

    def score(self, batch, image_K, text_K):
        self.asked += len(image_K)
        return self.p_BB[image_K, text_K]


def mine(p_BB=P, sim_BB=SIM, known_BB=None, store=None, scorer=None, **options):
    miner = ConnectionMiner(MafaSettings(candidates="batch", **options), scorer or Matrix(p_BB), store)
    known_BB = own_positives(len(sim_BB), len(sim_BB)) if known_BB is None else known_BB
    samples = {"index": torch.arange(len(sim_BB)), "text_row": torch.arange(len(sim_BB))}
    return miner.mine(samples, sim_BB, sim_BB.T, known_BB, torch.Generator().manual_seed(0))


def rows(pairs):
    columns = pairs.image_K, pairs.text_K, pairs.label_K, pairs.from_text_K.int()
    return list(zip(*(column.tolist() for column in columns), strict=True))


def test_a_batch_by_hand():
    mined = mine()
    # (image, text, label, anchored at the text)
    # texts 0..3: the most similar image that is no match and not unclear, then images 0..3 likewise
    assert rows(mined.settled) == [
        (3, 0, 0, 1),
        (2, 1, 0, 1),  # image 3 (8) is unclear, image 0 (5) a match
        (0, 2, 0, 1),
        (1, 3, 0, 1),  # image 2 (8) is a match
        (0, 2, 0, 0),
        (1, 3, 0, 0),
        (2, 1, 0, 0),
        (3, 2, 0, 0),  # text 1 (8) is unclear
        (2, 0, 1, 1),
        (0, 1, 1, 1),
        (2, 3, 1, 1),
        (0, 1, 1, 0),
        (2, 3, 1, 0),  # the more similar of its two matches
    ]
    assert rows(mined.itc) == [(0, 1, 1, 1), (2, 0, 1, 1), (2, 3, 1, 1), (0, 1, 1, 0), (2, 0, 1, 0), (2, 3, 1, 0)]
    assert mined.counts == {
        "candidates": 24,
        "connections": 6,
        "ambiguous": 2,
        "negatives": 16,
        "spares": 0,
        "scored": 12,
        "from_store": 0,
        "known_positives": 0,
    }


def test_the_targets_of_that_batch_by_hand():
    i2t, t2i = losses.managed_itc_targets(mine().itc_pairs, own_positives(4, 4), 0, 0.0, 0.0)
    third = 1 / 3
    assert torch.allclose(i2t, torch.tensor([[0.5, 0.5, 0, 0], [0, 1, 0, 0], [third, 0, third, third], [0, 0, 0, 1]]))
    assert torch.allclose(t2i, torch.tensor([[0.5, 0, 0.5, 0], [0.5, 0.5, 0, 0], [0, 0, 1, 0], [0, 0, 0.5, 0.5]]))


def test_targets_in_proportion_to_p_match_by_hand():
    mined = mine(positive_weight="probability")
    i2t, t2i = losses.managed_itc_targets(mined.itc_pairs, own_positives(4, 4), 0, 0.0, 0.0)
    assert torch.allclose(i2t[0], torch.tensor([1, 0.9, 0, 0]) / 1.9)
    assert torch.allclose(i2t[2], torch.tensor([0.95, 0, 1, 0.85]) / 2.8)
    assert torch.allclose(t2i[3], torch.tensor([0, 0, 0.85, 1]) / 1.85)


def test_dropped_matches_are_no_positives_and_no_negatives():
    mined = mine(action="drop")
    assert not mined.settled.connections.any() and not mined.itc_pairs.connections.any()
    dropped = losses.matched_masks(mined.candidates, mined.matches_C, 4, 4)
    assert dropped[0].nonzero().tolist() == [[0, 1], [2, 0], [2, 3]]
    assert torch.equal(dropped[1], dropped[0].T)
    assert rows(mined.settled) == rows(mine().settled)[:8]


def test_every_pair_is_scored_once_and_none_is_stored():
    scorer, store = Matrix(P), ConnectionStore(None, "f")
    for _ in range(2):
        mine(scorer=scorer, store=store)
    assert scorer.asked == 2 * 12 and store.rows == 0


def test_known_positives_are_not_judged():
    known = own_positives(4, 4)
    known[0, 1] = known[1, 0] = True
    scorer = Matrix(P)
    mined = mine(known_BB=known, scorer=scorer)
    assert scorer.asked == 10
    assert not {(0, 1), (1, 0)} & {row[:2] for row in [*rows(mined.settled), *rows(mined.itc)]}


@pytest.mark.parametrize("p", [0.1, 0.65, 0.9])
@pytest.mark.parametrize("B", [1, 2])
def test_tiny_batches(B, p):
    mined = mine(torch.full((B, B), p), torch.eye(B))
    expected = 0 if B == 1 or p == 0.65 else 4  # either end of either pair has a negative, or a match
    assert len(mined.settled.image_K) == expected and len(mined.itc.image_K) == expected * (p == 0.9)
    assert len(mined.p_C) == 4 * (B - 1)


def test_drawn_negatives_are_no_matches():
    for seed in range(5):
        mined = mine(sim_BB=SIM + seed, negatives="multinomial")
        negatives = [row[:2] for row in rows(mined.settled) if not row[2]]
        assert len(negatives) == 8 and all(P[pair] < 0.5 for pair in negatives)


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 7), st.integers(0, 2**31 - 1), st.sampled_from(["connect", "drop"]))
def test_what_holds_of_every_batch(B, seed, action):
    generator = torch.Generator().manual_seed(seed)
    p_BB, sim_BB = torch.rand(B, B, generator=generator), torch.rand(B, B, generator=generator)
    known = own_positives(B, B) | (torch.rand(B, B, generator=generator) < 0.2)
    mined = mine(p_BB, sim_BB, known, action=action)
    match = (p_BB > 0.8) & ~known
    negative = (p_BB < 0.5) & ~known
    i2t, t2i = losses.connection_masks(mined.itc_pairs, B, B)
    expected = match if action == "connect" else torch.zeros_like(match)
    assert torch.equal(i2t, expected) and torch.equal(t2i, expected.T)
    for image, text, label, from_text in rows(mined.settled):
        allowed = match if label else negative
        row, value = (allowed[:, text], sim_BB[:, text]) if from_text else (allowed[image], sim_BB[image])
        assert allowed[image, text] and sim_BB[image, text] == value[row].max()
    anchors = negative.any(0).sum() + negative.any(1).sum()
    assert (mined.settled.label_K == 0).sum() == anchors
    assert mined.counts["candidates"] == 2 * int((~known).sum())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rule": "relative"}, "candidates is batch, rule relative"),
        ({"action": "keep"}, "candidates is batch, rule absolute and action keep"),
        ({"action": "distil"}, "action distil"),
        ({"verify_spare": True}, "verify_spare"),
    ],
)
def test_settings_that_would_have_no_effect_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        MafaSettings(candidates="batch", **options)


def test_every_pair_lists_both_ends():
    pairs = every_pair(torch.eye(2, dtype=torch.bool))
    assert list(zip(pairs.image_C.tolist(), pairs.text_C.tolist(), pairs.from_text_C.tolist(), strict=True)) == [
        (0, 1, True),
        (1, 0, True),
        (0, 1, False),
        (1, 0, False),
    ]
