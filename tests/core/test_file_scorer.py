import numpy as np
import pandas as pd
import pytest
import torch

from lavis_mafa.core.miner import ConnectionMiner
from lavis_mafa.core.pairs import judge
from lavis_mafa.core.settings import MafaSettings
from lavis_mafa.data.identity import text_id
from lavis_mafa.scorers.verdict_file import FileScorer

WORDS = {1: "connection", 0: "ambiguous", -1: "negative"}


def write(path, image_id_K, text_id_K, p_K):
    verdict = [WORDS[v] for v in judge(torch.as_tensor(p_K), 0.5, 0.8).tolist()]
    frame = pd.DataFrame({"image_id": image_id_K, "text_id": text_id_K, "p": p_K, "verdict": verdict})
    frame.to_parquet(path)
    return path


def batch(size, seed):
    rng = np.random.default_rng(seed)
    return {
        "index": torch.arange(size),
        "text_row": torch.arange(size),
        "image_id": torch.from_numpy(rng.permutation(2**62 + np.arange(size))),
        "text_id": torch.from_numpy(rng.permutation(2**61 + np.arange(size))),
    }


class Online:
    """A Con-D whose P(match) is a matrix."""

    fingerprint = "online"

    def __init__(self, p_BB):
        self.p_BB = p_BB

    def score(self, batch, image_K, text_K):
        return self.p_BB[image_K, text_K]


SETTINGS = [
    {},
    {"action": "drop"},
    {"verify_spare": True},
    {"pairs_once": False},
    {"candidates": "batch"},
    {"candidates": "batch", "positive_weight": "probability"},
    {"verify_spare": True, "positive_weight": "probability"},
]


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("seed", range(4))
def test_mined_verdicts_settle_a_batch_as_con_d_does_online(tmp_path, settings, seed):
    B, generator = 12, torch.Generator().manual_seed(seed)
    samples, p_BB = batch(B, seed), torch.rand(B, B, generator=generator)
    sims = torch.rand(2, B, B, generator=generator)
    image, text = (grid.ravel() for grid in torch.meshgrid(torch.arange(B), torch.arange(B), indexing="ij"))
    path = write(
        tmp_path / "c.parquet",
        samples["image_id"][image].numpy(),
        samples["text_id"][text].numpy(),
        p_BB.ravel().numpy(),
    )
    rule, known = MafaSettings.from_dict(settings), torch.eye(B, dtype=torch.bool)
    online = ConnectionMiner(rule, Online(p_BB)).mine(samples, *sims, known)
    offline = ConnectionMiner(rule, FileScorer.read(path, rule.low, rule.high)).mine(samples, *sims, known)
    assert offline.counts == online.counts and online.counts["connections"] > 0
    for name in ("image_K", "text_K", "label_K", "from_text_K"):
        assert torch.equal(getattr(offline.settled, name), getattr(online.settled, name))
        assert torch.equal(getattr(offline.itc_pairs, name), getattr(online.itc_pairs, name))
    if "positive_weight" in settings:
        found = online.itc_pairs.connections
        weights = [mined.itc_pairs.weight_K[found] for mined in (offline, online)]
        assert torch.equal(*weights) and (weights[0] > 0.8).all()


def test_pairs_that_are_absent_are_negatives_even_if_both_ids_are_there(tmp_path):
    scorer = FileScorer.read(
        write(tmp_path / "c.parquet", [5, 9, 9], [70, 30, 70], np.float32([0.9, 0.6, 0.2])), 0.5, 0.8
    )
    samples = {"image_id": torch.tensor([5, 9, 1]), "text_id": torch.tensor([30, 70, 99])}
    image, text = (grid.ravel() for grid in torch.meshgrid(torch.arange(3), torch.arange(3), indexing="ij"))
    expected = [[0, 0.9, 0], [0.6, 0, 0], [0, 0, 0]]
    torch.testing.assert_close(scorer.score(samples, image, text).reshape(3, 3), torch.tensor(expected))
    assert scorer.covers(np.array([9, 2])) and not scorer.covers(np.array([2, 3]))


def test_a_file_without_connections_makes_everything_a_negative(tmp_path):
    scorer = FileScorer.read(write(tmp_path / "c.parquet", [5], [70], np.float32([0.1])), 0.5, 0.8)
    samples = {"image_id": torch.tensor([5]), "text_id": torch.tensor([70])}
    assert scorer.score(samples, torch.tensor([0]), torch.tensor([0])).tolist() == [0.0]


def test_what_is_no_file_of_verdicts_is_told(tmp_path):
    with pytest.raises(ValueError, match=r"none\.parquet is missing.*lavis_mafa.mine"):
        FileScorer.read(tmp_path / "none.parquet", 0.5, 0.8)
    pd.DataFrame({"image_id": [1], "p": [0.5]}).to_parquet(tmp_path / "c.parquet")
    with pytest.raises(ValueError, match="lacks the columns text_id, verdict"):
        FileScorer.read(tmp_path / "c.parquet", 0.5, 0.8)
    (tmp_path / "d.parquet").write_bytes(b"no")
    with pytest.raises(ValueError, match="not a readable Parquet"):
        FileScorer.read(tmp_path / "d.parquet", 0.5, 0.8)


@pytest.mark.parametrize(("low", "high"), [(0.5, 0.8), (0.2, 0.95), (0.9, 0.95)])
def test_verdicts_hold_under_other_bounds_and_where_people_overruled_the_score(tmp_path, low, high):
    frame = pd.DataFrame(
        {
            "image_id": [1, 2, 3, 4],
            "text_id": [1, 2, 3, 4],
            "p": np.float32([0.85, 0.1, 0.99, 0.6]),
            "verdict": ["connection", "connection", "negative", "ambiguous"],
        }
    )
    frame.to_parquet(tmp_path / "c.parquet")
    samples = {name: torch.tensor([1, 2, 3, 4]) for name in ("image_id", "text_id")}
    p_K = FileScorer.read(tmp_path / "c.parquet", low, high).score(samples, torch.arange(4), torch.arange(4))
    assert judge(p_K, low, high).tolist() == [1, 1, -1, 0]
    if (low, high) == (0.5, 0.8):
        torch.testing.assert_close(p_K[[0, 3]], torch.tensor([0.85, 0.6]))  # what is judged the same keeps its score


def test_the_fingerprint_is_of_the_verdicts(tmp_path):
    one = FileScorer.read(write(tmp_path / "a.parquet", [5], [70], np.float32([0.9])), 0.5, 0.8)
    other = FileScorer.read(write(tmp_path / "b.parquet", [5], [71], np.float32([0.9])), 0.5, 0.8)
    again = FileScorer.read(tmp_path / "a.parquet", 0.5, 0.8)
    assert one.fingerprint == again.fingerprint != other.fingerprint


def test_an_unknown_verdict_and_bounds_without_room_are_reported(tmp_path):
    rows = pd.DataFrame({"image_id": [1], "text_id": [1], "p": [0.9], "verdict": ["conection"]})
    rows.to_parquet(tmp_path / "c.parquet")
    with pytest.raises(ValueError, match="verdict is 'conection'"):
        FileScorer.read(tmp_path / "c.parquet", 0.5, 0.8)
    for column, value, message in (
        ("verdict", None, "verdict is None"),
        ("p", np.nan, "p must be a number"),
        ("image_id", 1.5, "image_id must be a whole number"),
    ):
        rows.assign(verdict="connection").assign(**{column: [value]}).to_parquet(tmp_path / "d.parquet")
        with pytest.raises(ValueError, match=message):
            FileScorer.read(tmp_path / "d.parquet", 0.5, 0.8)
    with pytest.raises(ValueError, match="requires 0 < low and high < 1"):
        FileScorer.read(tmp_path / "c.parquet", 0.5, 1.0)


def weighted(path, weight):
    frame = pd.read_parquet(write(path, [5, 9], [70, 30], np.float32([0.9, 0.95])))
    frame.assign(weight=weight).to_parquet(path)
    return path


def test_a_file_may_say_what_its_connections_weigh(tmp_path):
    path = weighted(tmp_path / "c.parquet", [0.25, 1.0])
    scorer = FileScorer.read(path, 0.5, 0.8, weighted=True)
    samples = {"image_id": torch.tensor([5, 9]), "text_id": torch.tensor([70, 30])}
    rule = MafaSettings(candidates="batch", positive_weight="probability")
    sims = torch.ones(2, 2, 2)
    samples["text_id"] = samples["text_id"].flip(0)  # so that the listed pairs are not the own ones
    pairs = ConnectionMiner(rule, scorer).mine(samples, *sims, torch.eye(2, dtype=torch.bool)).itc_pairs
    assert list(zip(pairs.image_K.tolist(), pairs.weight_K.tolist(), strict=True)) == [
        (0, 0.25),
        (1, 1.0),
        (0, 0.25),
        (1, 1.0),
    ]
    assert scorer.fingerprint != FileScorer.read(weighted(path, [0.5, 1.0]), 0.5, 0.8, weighted=True).fingerprint


def test_weights_that_the_run_would_not_read_or_that_are_none_are_refused(tmp_path):
    path = weighted(tmp_path / "c.parquet", [0.25, 1.0])
    with pytest.raises(ValueError, match="positive_weight: equal does not read"):
        FileScorer.read(path, 0.5, 0.8)
    for bad in ([0.5, 1.5], [0.5, np.nan], ["a", "b"]):
        with pytest.raises(ValueError, match="weight must be a number"):
            FileScorer.read(weighted(path, bad), 0.5, 0.8, weighted=True)


def test_a_file_is_looked_up_by_what_the_model_of_the_run_reads(tmp_path):
    """It was mined by a model that tells "A dog." from "a dog"; for that of the run they are one text."""
    frame = pd.DataFrame({"image_id": [1, 1, 2], "text_id": [text_id(c) for c in ("A dog.", "a dog", "a cat")]})
    frame = frame.assign(
        caption=["A dog.", "a dog", "a cat"], p=[0.6, 0.9, 0.7], verdict=["ambiguous", "connection", "ambiguous"]
    )
    frame.to_parquet(tmp_path / "c.parquet")
    scorer = FileScorer.read(tmp_path / "c.parquet", 0.5, 0.8, lambda caption: text_id(caption.strip(".")))
    samples = {"image_id": torch.tensor([1, 2]), "text_id": torch.tensor([text_id("a dog"), text_id("a cat")])}
    image, text = torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 0, 1])
    assert scorer.score(samples, image, text).tolist() == pytest.approx([0.9, 0, 0, 0.7])
