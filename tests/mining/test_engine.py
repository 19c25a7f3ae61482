from dataclasses import replace

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from lavis_mafa.core.settings import MafaSettings
from lavis_mafa.mining import candidates, engine, results, scoring
from lavis_mafa.mining.candidates import SearchSettings
from lavis_mafa.mining.corpus import Corpus, packed
from lavis_mafa.mining.engine import mine
from lavis_mafa.mining.search import Nearest

from .conftest import ROWS, World, table


def run(folder, world=None, corpus=None, rule=None, data="", embedder="e", scorer="s", **search):
    search = SearchSettings(**{"range_max": 3, **search})
    networks = (world or World()).networks(embedder, scorer)
    return mine(corpus or Corpus.of(table(ROWS)), networks, search, rule or MafaSettings(), folder, data)


def same(one, other):
    for name in ("record_K", "text_K", "similarity_K", "rank_of_text_K", "rank_of_image_K"):
        np.testing.assert_array_equal(getattr(one.candidates, name), getattr(other.candidates, name))
    np.testing.assert_array_equal(one.p_K, other.p_K)
    np.testing.assert_array_equal(one.own_p_P, other.own_p_P)


def test_every_caption_counts_once_and_own_pairs_are_those_of_any_image_that_has_it(corpus):
    assert corpus.texts(0, 9) == ["a dog runs", "an animal", "a cat sits", "a red car"]
    pairs = list(zip(corpus.own_record_P.tolist(), corpus.own_text_P.tolist(), strict=True))
    assert pairs == [(0, 0), (0, 1), (1, 1), (1, 2), (2, 3), (3, 0)]


def test_hidden_siblings_are_no_own_pairs_and_so_candidates(corpus, tmp_path):
    hiding = Corpus.of(table(ROWS), hide_siblings=True)
    pairs = list(zip(hiding.own_record_P.tolist(), hiding.own_text_P.tolist(), strict=True))
    assert pairs == [(0, 0), (1, 2), (2, 3), (3, 0)]
    assert hiding.is_hidden(np.array([0, 1, 2, 0]), np.array([1, 1, 1, 0])).tolist() == [True, True, False, False]
    with_siblings = run(
        tmp_path, corpus=corpus, range_max=4
    )  # the same cache serves both, and neither takes the other's pairs
    untold = run(tmp_path, corpus=hiding, range_max=4)
    assert len(untold.candidates) == len(with_siblings.candidates) + 2
    figures = results.against_siblings(hiding, untold)
    assert (figures["hidden"], figures["candidates"], figures["coverage"]) == (2, 2, 1.0)


def test_candidates_are_all_pairs_but_the_known_where_k_is_large(mined, corpus):
    found = set(zip(mined.candidates.record_K.tolist(), mined.candidates.text_K.tolist(), strict=True))
    known = set(zip(corpus.own_record_P.tolist(), corpus.own_text_P.tolist(), strict=True))
    assert found == {(record, text) for record in range(4) for text in range(4)} - known
    assert mined.recall == {"texts": 1.0, "images": 1.0}


def test_scores_and_verdicts_are_of_the_pair_they_stand_beside(mined, corpus):
    rows = corpus.text_row_T[mined.candidates.text_K]
    np.testing.assert_array_equal(mined.p_K, World().score(mined.candidates.record_K, rows))
    np.testing.assert_array_equal(
        mined.own_p_P, World().score(corpus.own_record_P, corpus.text_row_T[corpus.own_text_P])
    )
    assert set(mined.verdict_K[mined.p_K > np.float32(0.8)]) <= {1}
    assert set(mined.verdict_K[mined.p_K < 0.5]) <= {-1}
    assert ((mined.verdict_K == 1) == (mined.p_K > np.float32(0.8))).all()


def test_a_second_run_asks_the_networks_nothing(tmp_path):
    one, world = run(tmp_path), World()
    same(one, run(tmp_path, world))
    assert world.calls == 0


@pytest.mark.parametrize("changed", ["data", "embedder", "scorer"])
def test_what_changed_is_never_taken_from_the_cache(tmp_path, changed):
    run(tmp_path)
    world = World()
    run(tmp_path, world, **{changed: "other"})
    assert world.calls == {"data": 3, "embedder": 2, "scorer": 1}[changed]


def test_other_captions_are_other_data(tmp_path):
    run(tmp_path)
    world = World()
    run(tmp_path, world, Corpus.of(table([*ROWS[:3], ("d.jpg", ["a dog sleeps"])])))
    assert world.calls == 3


def test_killed_at_any_call_the_next_start_gives_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(engine, "PART", 2)
    monkeypatch.setattr(scoring, "PART", 3)
    monkeypatch.setattr(scoring, "MERGE_EVERY", 2)
    world = World()
    whole = run(tmp_path / "whole", world)
    calls = world.calls
    assert calls >= 8
    for at in range(1, calls + 1):
        first, second = World(dies_at=at), World()
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / str(at), first)
        same(whole, run(tmp_path / str(at), second))
        assert second.calls == calls - at + 1  # what was done is not done again


def test_scores_that_are_no_probabilities_are_refused(tmp_path):
    world = World()
    world.score = lambda record_K, row_K: np.full(len(record_K), 1.2)
    with pytest.raises(ValueError, match="not probabilities"):
        run(tmp_path, world)


def test_range_and_scores_leave_pairs_out(tmp_path):
    all_of = run(tmp_path, range_max=2)
    assert all_of.candidates.rank_of_text_K.max() == 2
    skipped = run(tmp_path, range_min=1, range_max=2)
    assert set(np.unique(skipped.candidates.rank_of_text_K)) <= {0, 2}
    low = float(np.median(all_of.candidates.similarity_K))
    capped = run(tmp_path, range_max=2, max_score=low)
    assert 0 < len(capped.candidates) < len(all_of.candidates)
    assert capped.candidates.similarity_K.max() <= low


def test_relative_margin_is_to_the_best_own_pair_of_the_anchor(tmp_path, corpus):
    mined = run(tmp_path, relative_margin=0.2)
    pairs = mined.candidates
    own_of_image, own_of_text = np.full(4, -np.inf), np.full(4, -np.inf)
    np.maximum.at(own_of_image, corpus.own_record_P, mined.own_similarity_P)
    np.maximum.at(own_of_text, corpus.own_text_P, mined.own_similarity_P)
    by_image, by_text = pairs.rank_of_text_K > 0, pairs.rank_of_image_K > 0
    assert (pairs.similarity_K[by_image] <= 0.8 * own_of_image[pairs.record_K[by_image]] + 1e-6).all()
    assert (pairs.similarity_K[by_text] <= 0.8 * own_of_text[pairs.text_K[by_text]] + 1e-6).all()
    assert (by_image | by_text).all() and len(pairs) < len(run(tmp_path).candidates)


def test_a_relative_margin_is_taken_from_the_magnitude_by_hand():
    """Best own pairs 0.5, -0.5, none: at a margin of 0.1 what is above 0.45, -0.55 is left out."""
    similarity = np.array([[0.46, 0.44], [-0.49, -0.56], [0.9, -0.9]], np.float32)
    near = Nearest(np.tile(np.arange(2), (3, 1)), similarity)
    own = np.array([0.5, -0.5, -np.inf], np.float32)
    kept = candidates._kept(near, own, SearchSettings(relative_margin=0.1), anchors_are_records=True)
    assert kept.similarity_L.tolist() == similarity[[0, 1, 2, 2], [1, 1, 0, 1]].tolist()


def test_absolute_margin_and_the_smallest_score(tmp_path, corpus):
    whole, mined = run(tmp_path), run(tmp_path, absolute_margin=0.1)
    pairs, own_of_image = mined.candidates, np.full(4, -np.inf)
    np.maximum.at(own_of_image, corpus.own_record_P, mined.own_similarity_P)
    by_image = pairs.rank_of_text_K > 0
    assert (pairs.similarity_K[by_image] <= own_of_image[pairs.record_K[by_image]] - 0.1 + 1e-6).all()
    assert 0 < len(pairs) < len(whole.candidates)
    least = float(np.median(whole.candidates.similarity_K))
    near = run(tmp_path, min_score=least).candidates
    assert near.similarity_K.min() >= least and len(near) == (whole.candidates.similarity_K >= least).sum()


def test_a_caption_without_an_own_image_has_no_margin_to_keep(tmp_path):
    hidden = Corpus.of(table(ROWS), hide_siblings=True)
    everything = run(tmp_path / "all", corpus=hidden).candidates
    lone = (everything.rank_of_image_K > 0) & ~np.isin(everything.text_K, hidden.own_text_P)
    expected = set(packed(everything.record_K, everything.text_K)[lone].tolist())
    for margin in ({"relative_margin": 1}, {"absolute_margin": 2.0}):
        pairs = run(tmp_path / next(iter(margin)), corpus=hidden, **margin).candidates
        assert expected and expected <= set(packed(pairs.record_K, pairs.text_K).tolist())
        assert len(pairs) < len(everything)


@pytest.mark.parametrize(
    "wrong",
    [
        {"range_min": 3},
        {"range_max": 0},
        {"range_max": "abc"},
        {"range_max": True},
        {"relative_margin": 1.5},
        {"relative_margin": "half"},
        {"max_score": "high"},
        {"min_score": float("nan")},
        {"min_score": 0.9, "max_score": 0.1},
        {"index": "foo"},
        {"nprobe": 0},
    ],
)
def test_settings_out_of_range_are_reported(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        SearchSettings(**{"range_max": 3, **wrong})


def test_the_search_is_exact_where_that_is_affordable():
    one, many = np.empty((2, 1, 8)), np.broadcast_to(np.float32(0), (10**6, 32, 8))
    assert SearchSettings().backend(one, many) == "flat"
    assert SearchSettings().backend(many, many) == "auto"
    assert SearchSettings(index="ivf").backend(one, one) == "ivf"


def test_the_file_of_connections_reads_in_one_line_and_reconciles(mined, corpus, tmp_path):
    results.write_connections(tmp_path / "connections.parquet", corpus, mined, "print")
    frame = pd.read_parquet(tmp_path / "connections.parquet")
    totals = results.totals(corpus, mined, MafaSettings())
    assert len(frame) == totals["candidates"] == totals["connections"] + totals["ambiguous"] + totals["negatives"]
    assert (frame["verdict"] == "connection").sum() == totals["connections"]
    first = frame.iloc[0]
    assert (first["image"], first["caption"]) == ("a.jpg", "a cat sits")
    assert first["image_id"] == corpus.table.image_id[0] and first["text_id"] == corpus.table.text_id[2]
    assert pq.read_schema(tmp_path / "connections.parquet").metadata[b"fingerprint"] == b"print"
    stored = mined.store.to_frame()
    assert len(stored) == len(frame) + totals["own_pairs"]


def test_the_store_gives_everything_that_the_file_says_of_a_pair(mined, corpus, tmp_path):
    path = tmp_path / "connections.parquet"
    results.write_connections(path, corpus, mined, mined.store.fingerprint)
    joined, frame = mined.store.to_frame(path), pd.read_parquet(path)
    candidates = joined.dropna(subset=["verdict"])
    assert len(joined) == len(mined.store.to_frame()) and len(candidates) == len(frame)
    assert (candidates["score"] == candidates["p"]).all() and set(frame) < set(joined)
    by_key = frame.set_index(["record", "text_row"])
    for _, row in candidates.iterrows():
        for column in ("caption", "verdict", "image_id", "text_id"):  # ids have 63 bits, a float 53
            assert by_key.loc[(row["record"], row["text_row"])][column] == row[column]
    results.write_connections(path, corpus, mined, "of another store")
    with pytest.raises(ValueError, match="belongs to another run"):
        mined.store.to_frame(path)


def test_truth_gives_precision_recall_and_coverage(corpus, tmp_path):
    truth = lambda records, rows: (records + corpus.table.record_of_caption[rows]) % 2 == 0  # noqa: E731
    mined = run(tmp_path, corpus=corpus)
    pairs = mined.candidates
    true = truth(pairs.record_K, corpus.text_row_T[pairs.text_K])
    connected = mined.verdict_K == 1
    quality = results.quality(mined, results.labelled_by_truth(corpus, mined, truth))
    assert quality["precision"] == pytest.approx((true & connected).sum() / connected.sum())
    assert quality["recall"] == pytest.approx((true & connected).sum() / true.sum())
    at_or_above = [(true[mined.p_K >= p].mean(), true[mined.p_K >= p].sum() / true.sum()) for p in sorted(mined.p_K)]
    assert quality["precision_at_recall_0.8"] == next(pr for pr, recall in reversed(at_or_above) if recall >= 0.8)
    assert results.coverage(corpus, mined, truth) == 1.0
    kept = np.flatnonzero(true)[1:]  # one true match is not among the candidates
    fewer = replace(
        mined,
        candidates=replace(pairs, **{name: getattr(pairs, name)[kept] for name in vars(pairs)}),
        p_K=mined.p_K[kept],
        verdict_K=mined.verdict_K[kept],
    )
    assert results.coverage(corpus, fewer, truth) == pytest.approx(1 - 1 / true.sum())


def test_doubted_own_pairs_are_listed_the_worst_first(mined, corpus, tmp_path):
    at = results.suspects(mined, MafaSettings())
    assert (mined.own_p_P[at] < 0.5).all() and len(at) == (mined.own_p_P < 0.5).sum()
    results.write_suspects(tmp_path / "suspects.csv", corpus, mined, at)
    frame = pd.read_csv(tmp_path / "suspects.csv")
    assert frame["p"].is_monotonic_increasing and len(frame) == len(at) > 0


def test_captions_that_the_model_reads_alike_are_no_candidates_of_each_other(tmp_path):
    """Nor are embeddings reused that were made while they were two texts."""
    two = table([("a.jpg", ["a dog."]), ("b.jpg", ["a dog"]), ("c.jpg", ["a cat"])])
    one = two.read_through(lambda caption: caption.strip("."))
    for records, texts, own in ((two, 3, 3), (one, 2, 3)):
        corpus, world = Corpus.of(records), World()
        mined = mine(corpus, world.networks(), SearchSettings(range_max=3), MafaSettings(), tmp_path, "data")
        assert (corpus.n_texts, len(corpus.own_record_P), len(mined.p_K)) == (texts, own, 3 * texts - own)
        assert world.calls > 0
        assert corpus.places(["a dog.", "A DOG", "a  cat", "x"]).tolist() == [0, 1 if texts == 3 else 0, texts - 1, -1]
