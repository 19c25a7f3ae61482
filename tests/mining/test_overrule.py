"""Labels of people against the judge's verdicts, pair by pair."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from lavis_mafa.core.pairs import CONNECTION, NEGATIVE
from lavis_mafa.mining import results
from lavis_mafa.mining.corpus import Corpus, packed
from lavis_mafa.mining.engine import Mined
from lavis_mafa.mining.overrule import overruled
from lavis_mafa.mining.review import Labels


def labels(keys: list[int], true: list[bool]) -> Labels:
    order = np.argsort(keys)
    return Labels(np.array(keys, np.int64)[order], np.array(true, np.bool_)[order])


def without_last(mined: Mined) -> tuple[Mined, int]:
    """The result with a candidate less, and the key of that one."""
    pairs = mined.candidates
    less = replace(pairs, **{name: getattr(pairs, name)[:-1] for name in vars(pairs)})
    key = int(packed(pairs.record_K, pairs.text_K)[-1])
    return replace(mined, candidates=less, p_K=mined.p_K[:-1], verdict_K=mined.verdict_K[:-1]), key


def test_every_label_counts_and_is_counted(corpus: Corpus, mined: Mined, tmp_path: Path) -> None:
    mined, new = without_last(mined)
    key_K = packed(mined.candidates.record_K, mined.candidates.text_K)
    accepted, refused = (np.flatnonzero((mined.verdict_K == CONNECTION) == yes) for yes in (True, False))
    assert len(accepted) >= 2 and len(refused) >= 2
    wrong, right, missed, refuted = (int(key_K[at]) for at in (*accepted[:2], *refused[:2]))
    own = int(packed(corpus.own_record_P, corpus.own_text_P)[0])
    given = labels([wrong, right, missed, refuted, new, own], [False, True, True, False, True, False])
    found, counts = overruled(corpus, mined, given, np.full(6, 0.25, np.float32))
    assert counts == {"confirmed": 2, "connected": 1, "rejected": 1, "added": 1, "annotated": 1}

    results.write_connections(tmp_path / "c.parquet", corpus, found, "x")
    table = pq.read_table(tmp_path / "c.parquet")
    keys = packed(found.candidates.record_K, found.candidates.text_K)
    assert (np.diff(keys) > 0).all() and table.num_rows == len(key_K) + 1
    written = {int(key): row for key, row in zip(keys, table.to_pylist(), strict=True)}
    for key, verdict in ((wrong, "negative"), (right, "connection"), (missed, "connection"), (refuted, "negative")):
        assert (written[key]["verdict"], written[key]["verdict_by"]) == (verdict, "person")
        assert written[key]["p"] == mined.p_K[np.searchsorted(key_K, key)]  # the judge's, whoever was right
    assert (written[new]["verdict"], written[new]["verdict_by"], written[new]["p"]) == ("connection", "person", 0.25)
    assert written[new]["similarity"] is None and written[new]["rank_of_text"] is None
    others = [row for key, row in written.items() if key not in (wrong, right, missed, refuted, new)]
    assert {row["verdict_by"] for row in others} == {"judge"}

    texts = sum(map(len, results.connected_captions(corpus, found).values()))
    before = sum(map(len, results.connected_captions(corpus, mined).values()))
    assert texts == before - 1 + 2  # one is refuted, one was missed, one is new


def test_no_labels_change_nothing(corpus: Corpus, mined: Mined) -> None:
    found, counts = overruled(corpus, mined, labels([], []), np.empty(0, np.float32))
    assert found.verdict_K.tolist() == mined.verdict_K.tolist() and not any(counts.values())
    assert (found.verdict_K == NEGATIVE).sum() == (mined.verdict_K == NEGATIVE).sum()
