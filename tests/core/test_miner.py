import numpy as np
import pytest
import torch

from lavis_mafa.core.connections import ConnectionStore
from lavis_mafa.core.miner import ConnectionMiner
from lavis_mafa.core.pairs import known_positives
from lavis_mafa.core.settings import MafaSettings

SIM_I2T = torch.tensor([[9.0, 5.0, 7.0], [1.0, 9.0, 2.0], [4.0, 3.0, 9.0]])
SIM_T2I = torch.tensor([[9.0, 3.0, 6.0], [5.0, 9.0, 1.0], [8.0, 2.0, 9.0]])
OWN = torch.eye(3, dtype=torch.bool)
BATCH = {"index": torch.tensor([40, 50, 60]), "text_row": torch.tensor([401, 502, 600])}
# candidates, as (image, text) → spare: texts (2,0)→1, (0,1)→2, (0,2)→1; images (0,2)→1, (1,2)→0, (2,0)→1
DISTINCT = [(0, 1), (0, 2), (1, 2), (2, 0)]


class TableScorer:
    """P(match) from a table, 0.1 where it has nothing; remembers what it was asked."""

    fingerprint = "table"

    def __init__(self, **table):
        self.table = {tuple(map(int, pair.strip("p"))): p for pair, p in table.items()}
        self.calls = []

    def score(self, batch, image_K, text_K):
        pairs = list(zip(image_K.tolist(), text_K.tolist(), strict=True))
        self.calls.append(pairs)
        return torch.tensor([self.table.get(pair, 0.1) for pair in pairs])


def mine(scorer=None, store=None, known=OWN, **settings):
    miner = ConnectionMiner(MafaSettings(**settings), scorer, store)
    return miner.mine(BATCH, SIM_I2T, SIM_T2I, known, torch.Generator().manual_seed(0))


def settled_rows(mined):
    settled = mined.settled
    return list(zip(settled.image_K.tolist(), settled.text_K.tolist(), settled.label_K.tolist(), strict=True))


def test_without_scorer_every_candidate_is_a_negative():
    mined = mine()
    assert settled_rows(mined) == [(2, 0, 0), (0, 1, 0), (0, 2, 0), (0, 2, 0), (1, 2, 0), (2, 0, 0)]
    assert mined.p_C is None
    assert mined.counts == {
        "candidates": 6,
        "connections": 0,
        "ambiguous": 0,
        "negatives": 6,
        "spares": 0,
        "scored": 0,
        "from_store": 0,
        "known_positives": 0,
    }


def test_every_distinct_pair_is_scored_once_in_one_call():
    scorer = TableScorer(p02=0.9, p12=0.6)
    mined = mine(scorer)
    assert [sorted(call) for call in scorer.calls] == [DISTINCT]
    # image 1's hardest text is ambiguous, its spare text 0 stands in
    assert settled_rows(mined) == [(2, 0, 0), (0, 1, 0), (0, 2, 1), (0, 2, 1), (1, 0, 0), (2, 0, 0)]
    assert mined.counts["scored"] == 4
    assert (mined.counts["connections"], mined.counts["ambiguous"], mined.counts["spares"]) == (2, 1, 1)
    assert torch.allclose(mined.p_C, torch.tensor([0.1, 0.1, 0.9, 0.9, 0.6, 0.1]))


def test_spares_are_verified_in_a_second_call():
    scorer = TableScorer(p12=0.6, p10=0.95)
    mined = mine(scorer, verify_spare=True)
    assert [sorted(call) for call in scorer.calls] == [DISTINCT, [(1, 0)]]
    assert settled_rows(mined)[4] == (1, 0, 1)
    assert mined.counts["scored"] == 5


def test_no_second_call_where_no_spare_is_needed():
    scorer = TableScorer()
    mine(scorer, verify_spare=True)
    assert len(scorer.calls) == 1


def test_the_store_spares_the_scorer():
    scorer, store = TableScorer(p02=0.9), ConnectionStore(None, "f")
    first = mine(scorer, store)
    second = mine(scorer, store)
    assert len(scorer.calls) == 1
    assert (first.counts["scored"], first.counts["from_store"]) == (4, 0)
    assert (second.counts["scored"], second.counts["from_store"]) == (0, 4)
    assert settled_rows(first) == settled_rows(second)
    assert torch.equal(first.p_C, second.p_C)


def test_the_store_is_keyed_by_record_and_caption():
    scorer, store = TableScorer(p02=0.9), ConnectionStore(None, "f")
    mine(scorer, store)
    assert sorted(zip(store.to_frame()["record"], store.to_frame()["text_row"], strict=True)) == [
        (40, 502),
        (40, 600),
        (50, 600),
        (60, 401),
    ]
    assert store.lookup(np.array([40]), np.array([600])) == np.float32(0.9)


def test_only_what_the_store_lacks_is_scored():
    scorer, store = TableScorer(), ConnectionStore(None, "f")
    store.add(np.array([40]), np.array([600]), np.array([0.85], dtype=np.float32))
    mined = mine(scorer, store)
    assert [sorted(call) for call in scorer.calls] == [[(0, 1), (1, 2), (2, 0)]]
    assert (mined.counts["scored"], mined.counts["from_store"]) == (3, 1)
    assert (0, 2, 1) in settled_rows(mined)


def test_known_positives_are_never_put_to_the_scorer():
    known = known_positives(torch.tensor([1, 2, 1]), torch.tensor([7, 8, 9]))
    scorer = TableScorer()
    mined = mine(scorer, known=known)
    assert sorted(scorer.calls[0]) == [(0, 1), (1, 0), (1, 2), (2, 1)]
    assert mined.counts["known_positives"] == 2
    assert mine(TableScorer(), known=known, known_positives=False).counts["known_positives"] == 0


@pytest.mark.parametrize("B", [1, 2])
def test_tiny_batches(B):
    batch = {name: values[:B] for name, values in BATCH.items()}
    scorer = TableScorer(p01=0.6)
    miner = ConnectionMiner(MafaSettings(verify_spare=True), scorer, ConnectionStore(None, "f"))
    mined = miner.mine(batch, SIM_I2T[:B, :B], SIM_T2I[:B, :B], OWN[:B, :B])
    assert settled_rows(mined) == ([] if B == 1 else [(1, 0, 0), (1, 0, 0)])
    assert len(scorer.calls) == B - 1  # nothing to score, no call


def test_drawn_negatives_follow_the_generator():
    sim = torch.full((3, 3), -1e4)
    sim[0, 1] = sim[1, 2] = sim[2, 0] = 1e4
    miner = ConnectionMiner(MafaSettings.from_dict({"preset": "none"}))
    mined = miner.mine(BATCH, sim, sim, OWN, torch.Generator().manual_seed(0))
    images, texts, labels = zip(*settled_rows(mined), strict=True)
    assert images[3:] == (0, 1, 2) and texts[:3] == (0, 1, 2) and set(labels) == {0}
    assert (np.array(texts[3:]) == [1, 2, 0]).sum() >= 2  # 1e-4 of chance each for another one
    with pytest.raises(AssertionError, match="generator"):
        miner.mine(BATCH, sim, sim, OWN)


def test_a_scorer_judges_drawn_pairs_too():
    scorer = TableScorer(p01=0.9, p12=0.6)
    miner = ConnectionMiner(MafaSettings(negatives="multinomial"), scorer)
    sim = torch.full((3, 3), -1e4)
    sim[0, 1] = sim[1, 2] = sim[2, 0] = 1e4
    mined = miner.mine(BATCH, sim, sim.T, OWN, torch.Generator().manual_seed(0))
    found = set(settled_rows(mined))
    assert {(0, 1, 1), (2, 0, 0)} <= found  # a connection, and a negative
    assert (1, 2) not in {row[:2] for row in found}  # ambiguous: another one of its anchor took its place
    assert mined.counts["connections"] == mined.counts["ambiguous"] == mined.counts["spares"] == 2


def test_mining_has_no_gradient():
    class Trainable(TableScorer):
        weight = torch.ones((), requires_grad=True)

        def score(self, batch, image_K, text_K):
            return super().score(batch, image_K, text_K) * self.weight

    assert not mine(Trainable()).p_C.requires_grad


@pytest.mark.parametrize(("once", "label"), [(True, 1), (False, 0)])
def test_pairs_once_lets_a_verdict_win_over_an_unverified_spare(once, label):
    # text 2's hardest image 0 is ambiguous, its spare is image 1; image 1's hardest text is text 2
    mined = mine(TableScorer(p02=0.6, p12=0.9), pairs_once=once)
    assert settled_rows(mined)[2] == (1, 2, label)
    assert (1, 2, 1) in settled_rows(mined)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -0.1, 3.5])
def test_scores_that_are_no_probabilities_are_reported(bad):
    store = ConnectionStore(None, "f")
    with pytest.raises(ValueError, match="not probabilities"):
        mine(TableScorer(p02=bad), store)
    assert store.rows == 0


def test_a_wrong_shape_is_a_bug():
    class Columns(TableScorer):
        def score(self, batch, image_K, text_K):
            return super().score(batch, image_K, text_K)[:, None]

    with pytest.raises(AssertionError, match="shape"):
        mine(Columns())


# own pairs 10, 10, 10; i2t rows: image 0 is near text 1 (9.6) and 2 (9.5), image 1 near none, image 2 near text 0 (10)
NEAR_I2T = torch.tensor([[10.0, 9.6, 9.5], [4.0, 10.0, 3.0], [10.0, 9.0, 10.0]])


def mine_relative(**settings):
    miner = ConnectionMiner(MafaSettings(rule="relative", **settings))
    return miner.mine(BATCH, NEAR_I2T, NEAR_I2T.T, OWN, torch.Generator().manual_seed(0))


def test_a_pair_near_the_own_one_makes_room_for_the_hardest_that_is_not():
    """NV-Retriever at 95 %. Texts: 0 → image 2 is near, then image 1; 1 → image 0 is near, then 2; 2 → 0 near, then 1.
    Images: 0 → both texts are near, so none; 1 → text 0; 2 → text 0 is near, then text 1."""
    mined = mine_relative(action="drop")
    assert settled_rows(mined) == [(1, 0, 0), (2, 1, 0), (1, 2, 0), (1, 0, 0), (2, 1, 0)]
    assert mined.p_C.tolist() == [1.0, 1.0, 1.0, 1.0, 0.0, 1.0]
    counts = {name: mined.counts[name] for name in ("connections", "negatives", "spares", "scored")}
    assert counts == {"connections": 5, "negatives": 1, "spares": 4, "scored": 0}


def test_a_pair_as_near_as_the_own_one_is_a_pseudo_positive():
    mined = mine_relative(own_share=1.0)
    assert settled_rows(mined) == [(2, 0, 1), (0, 1, 0), (0, 2, 0), (0, 1, 0), (1, 0, 0), (2, 0, 1)]


def test_drawn_pairs_near_the_own_one_give_way_too():
    mined = mine_relative(action="drop", negatives="multinomial")
    near = {(0, 1), (0, 2), (2, 0)}  # for either anchor
    assert len(mined.settled.image_K) and not near & {row[:2] for row in settled_rows(mined)}


def test_the_relative_rule_asks_no_scorer():
    with pytest.raises(AssertionError, match="no scorer"):
        ConnectionMiner(MafaSettings(rule="relative"), TableScorer())


def test_distilled_pairs_are_negatives_with_their_score():
    mined = mine(TableScorer(p02=0.9, p12=0.6), action="distil")
    assert settled_rows(mined) == settled_rows(mine())
    assert torch.allclose(mined.settled.p_K, torch.tensor([0.1, 0.1, 0.9, 0.9, 0.6, 0.1]))
    assert torch.allclose(mined.settled.once().p_K, torch.tensor([0.1, 0.1, 0.9, 0.6]))
    assert mine(TableScorer(p02=0.9)).settled.p_K is None


@pytest.mark.parametrize("action", ["connect", "drop", "distil"])
def test_what_was_judged_to_match_is_reported_whatever_becomes_of_it(action):
    mined = mine(TableScorer(p02=0.9, p12=0.6), action=action)
    pairs = list(zip(mined.candidates.image_C.tolist(), mined.candidates.text_C.tolist(), strict=True))
    assert {pair for pair, matches in zip(pairs, mined.matches_C.tolist(), strict=True) if matches} == {(0, 2)}
    assert int(mined.matches_C.sum()) == mined.counts["connections"]


def test_a_relative_rule_that_connects_nothing_is_reported():
    with pytest.raises(ValueError, match="no score can exceed"):
        MafaSettings(rule="relative", high=1.0)
