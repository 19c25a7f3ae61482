import contextlib
import json
import os
from pathlib import Path
from unittest import mock

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lavis_mafa.common.formats import header
from lavis_mafa.core import connections
from lavis_mafa.core.connections import ConnectionStore
from lavis_mafa.core.runs import Run, merged, united


def put(store, *triples):
    record, text_row, score = zip(*triples, strict=True)
    store.add(np.array(record), np.array(text_row), np.array(score, dtype=np.float32))


def get(store, *pairs):
    record, text_row = zip(*pairs, strict=True)
    return store.lookup(np.array(record), np.array(text_row)).tolist()


def content(store):
    frame = store.to_frame()
    return dict(zip(zip(frame["record"], frame["text_row"], strict=True), frame["score"].tolist(), strict=True))


def files(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture(params=["memory", "folder"])
def folder(request, tmp_path):
    return tmp_path / "new" / "store" if request.param == "folder" else None


def test_scores_are_found_in_the_buffer_in_parts_and_merged(folder):
    store = ConnectionStore(folder, "f")
    assert store.rows == 0
    assert np.isnan(get(store, (3, 7))).all()
    put(store, (3, 7, 0.25), (1, 9, 0.5))
    put(store, (2**31 - 1, 2**32 - 1, 1.0), (0, 0, 0.0))
    for step in (lambda: None, store.flush, store.merge, store.commit):
        step()
        assert get(store, (1, 9), (0, 0), (2**31 - 1, 2**32 - 1), (3, 7)) == [0.5, 0.0, 1.0, 0.25]
        assert np.isnan(get(store, (9, 1), (0, 1), (7, 3))).all()
        assert store.rows == 4


def test_the_first_score_of_a_pair_stays(folder):
    store = ConnectionStore(folder, "f")
    put(store, (1, 1, 0.25), (1, 1, 0.5))
    put(store, (1, 1, 0.75))
    store.flush()
    put(store, (1, 1, 1.0), (2, 2, 0.5))
    assert content(store) == {(1, 1): 0.25, (2, 2): 0.5}
    assert store.rows == 2


def test_to_frame_is_sorted_and_typed(folder):
    store = ConnectionStore(folder, "f")
    put(store, (2, 1, 0.5), (1, 3, 0.25))
    store.flush()
    put(store, (1, 2, 0.75))
    expected = {"record": [1, 1, 2], "text_row": [2, 3, 1], "score": np.array([0.75, 0.25, 0.5], dtype=np.float32)}
    pd.testing.assert_frame_equal(store.to_frame(), pd.DataFrame(expected))


def test_a_pair_takes_twelve_bytes(tmp_path):
    store = ConnectionStore(tmp_path, "f")
    number = np.arange(10_000)
    store.add(number, number, np.zeros(10_000, dtype=np.float32))
    store.merge()
    assert os.path.getsize(tmp_path / "merged_1.npy") == 128 + 12 * 10_000


def test_the_buffer_is_written_when_it_is_full(tmp_path, monkeypatch):
    monkeypatch.setattr(connections, "BUFFERED_PAIRS", 2)
    store = ConnectionStore(tmp_path, "f")
    put(store, (0, 0, 0.5))
    assert files(tmp_path) == ["store.json"]
    put(store, (0, 1, 0.5))
    put(store, (0, 2, 0.5), (0, 3, 0.5), (0, 4, 0.5))
    assert files(tmp_path) == ["part_0_r0_0.npy", "part_0_r0_1.npy", "store.json"]


def test_a_reopened_store_holds_what_was_flushed(tmp_path):
    store = ConnectionStore(tmp_path, "f")
    put(store, (1, 1, 0.5))
    store.merge()
    put(store, (2, 2, 0.25))
    store.flush()
    put(store, (3, 3, 0.75))
    assert content(ConnectionStore(tmp_path, "f")) == {(1, 1): 0.5, (2, 2): 0.25}


def test_ranks_share_scores_after_a_merge(tmp_path):
    ranks = [ConnectionStore(tmp_path, "f", rank) for rank in range(3)]
    for rank, store in enumerate(ranks):
        put(store, (rank, 0, 0.5), (9, 9, 0.25 * rank))
        store.flush()
    assert [store.rows for store in ranks] == [2, 2, 2]
    assert np.isnan(get(ConnectionStore(tmp_path, "f", rank=1), (0, 0))).all()  # not merged: of its own rank alone
    ranks[0].merge()
    for store in ranks:
        store.reload()
    for store in [*ranks, ConnectionStore(tmp_path, "f", rank=5)]:
        assert get(store, (0, 0), (1, 0), (2, 0), (9, 9)) == [0.5, 0.5, 0.5, 0.0]
        assert store.rows == 4


def test_the_state_of_rank_0_is_the_state_of_all(tmp_path):
    ranks = [ConnectionStore(tmp_path, "f", rank) for rank in range(2)]
    for rank, store in enumerate(ranks):
        put(store, (rank, 0, 0.5))
        store.flush()
    state = ranks[0].commit()
    for rank, store in enumerate(ranks):
        put(store, (rank, 1, 0.5))
        store.flush()
    resumed = [ConnectionStore(tmp_path, "f", rank) for rank in range(2)]
    for store in resumed:
        store.rollback(state)
    assert content(resumed[0]) == {(0, 0): 0.5, (1, 0): 0.5}
    assert get(resumed[1], (1, 0)) == [0.5]
    assert np.isnan(get(resumed[1], (1, 1))).all()
    alone = ConnectionStore(tmp_path, "f")  # of two ranks one is left
    alone.rollback(state)
    alone.merge()
    assert get(alone, (0, 0), (1, 0)) == [0.5, 0.5]


def test_rollback_drops_what_came_after(folder):
    store = ConnectionStore(folder, "f")
    put(store, (1, 1, 0.5))
    state = store.commit()
    put(store, (2, 2, 0.5))
    store.flush()
    put(store, (3, 3, 0.5))
    store.merge()
    put(store, (4, 4, 0.5))
    store.rollback(state)
    assert content(store) == {(1, 1): 0.5}
    assert store.rows == 1
    assert store.commit() == state
    if folder is not None:
        assert files(folder) == ["part_0_r0_0.npy", "store.json"]


def test_states_are_plain_and_empty_ones_are_fine(folder):
    store = ConnectionStore(folder, "f")
    empty = store.commit()
    known = {**header("connections"), "fingerprint": "f", "generation": 0, "rows": {}}
    assert empty == json.loads(json.dumps(empty)) == known
    put(store, (1, 1, 0.5))
    store.merge()
    assert store.commit()["rows"] == {"merged_1.npy": 1}
    store.rollback(empty)
    assert content(store) == {}


def test_files_merged_away_stay_until_the_second_commit(tmp_path):
    store = ConnectionStore(tmp_path, "f")
    put(store, (1, 1, 0.5))
    first = store.commit()
    store.merge()
    second = store.commit()
    assert files(tmp_path) == ["merged_1.npy", "part_0_r0_0.npy", "store.json"]
    again = ConnectionStore(tmp_path, "f")
    again.rollback(second)
    again.check(first)  # nor does a resume take it away
    store.commit()
    assert files(tmp_path) == ["merged_1.npy", "store.json"]
    with pytest.raises(ValueError, match=r"part_0_r0_0.npy is missing.*newest checkpoint"):
        store.rollback(first)
    assert content(store) == {(1, 1): 0.5}


def test_a_merge_of_nothing_new_writes_nothing(tmp_path):
    store = ConnectionStore(tmp_path, "f")
    store.merge()
    assert files(tmp_path) == ["store.json"]
    put(store, (1, 1, 0.5))
    store.merge()
    store.merge()
    assert ConnectionStore(tmp_path, "f").commit()["generation"] == 1


def test_another_fingerprint_or_format_is_refused(tmp_path):
    store = ConnectionStore(tmp_path, "weights A")
    state = store.commit()
    with pytest.raises(ValueError, match="fingerprint is 'weights A', expected 'weights B'"):
        ConnectionStore(tmp_path, "weights B")
    with pytest.raises(ValueError, match="fingerprint is 'weights A', expected 'weights B'"):
        ConnectionStore(None, "weights B").rollback(state)
    (tmp_path / "store.json").write_text('{"format": 0, "fingerprint": "weights A"}')
    with pytest.raises(ValueError, match=r"store.json was written by lavis_mafa 0\.1\.0"):
        ConnectionStore(tmp_path, "weights A")
    (tmp_path / "store.json").write_text('{"form')
    with pytest.raises(ValueError, match="store.json is damaged"):
        ConnectionStore(tmp_path, "weights A")


def test_runs_without_their_header_are_reported(tmp_path):
    store = ConnectionStore(tmp_path, "f")
    put(store, (1, 1, 0.5))
    store.flush()
    (tmp_path / "store.json").unlink()
    with pytest.raises(ValueError, match="store.json is missing"):
        ConnectionStore(tmp_path, "f")


@pytest.mark.parametrize("kept", [0, 5, 60, 130, -1])
def test_a_torn_file_is_reported(tmp_path, kept):
    store = ConnectionStore(tmp_path, "f")
    put(store, (1, 1, 0.5), (2, 2, 0.5))
    store.commit()
    part = tmp_path / "part_0_r0_0.npy"
    part.write_bytes(part.read_bytes()[:kept])
    with pytest.raises(ValueError, match="part_0_r0_0.npy is damaged"):
        ConnectionStore(tmp_path, "f")


def test_a_torn_file_written_after_a_state_does_not_bar_the_way_back(tmp_path):
    store = ConnectionStore(tmp_path, "f")
    put(store, (1, 1, 0.5))
    state = store.commit()
    store.merge()
    (tmp_path / "merged_1.npy").write_bytes(b"torn")
    again = ConnectionStore(tmp_path, "f", state=state)
    again.rollback(state)
    assert content(again) == {(1, 1): 0.5} and files(tmp_path) == ["part_0_r0_0.npy", "store.json"]


def test_a_file_of_another_length_than_the_state_says_is_reported(tmp_path):
    store = ConnectionStore(tmp_path, "f")
    put(store, (1, 1, 0.5))
    state = store.commit()
    put(store, (2, 2, 0.5))
    state["rows"]["part_0_r0_0.npy"] = 2
    with pytest.raises(ValueError, match="contains 1 pairs, but the checkpoint expects 2"):
        store.rollback(state)
    assert get(store, (2, 2)) == [0.5]


def test_a_store_in_memory_does_not_outlive_its_process():
    store = ConnectionStore(None, "f")
    put(store, (1, 1, 0.5))
    with pytest.raises(ValueError, match="in memory.* is missing"):
        ConnectionStore(None, "f").rollback(store.commit())


@pytest.mark.parametrize("triple", [(-1, 0, 0.5), (2**31, 0, 0.5), (0, -1, 0.5), (0, 2**32, 0.5), (0, 0, np.nan)])
def test_keys_and_scores_out_of_range_are_bugs(triple):
    with pytest.raises(AssertionError):
        put(ConnectionStore(None, "f"), triple)


pair_lists = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 99)), max_size=12)


@settings(deadline=None, max_examples=80)
@given(pair_lists, pair_lists)
def test_merging_runs_equals_a_dict_where_the_old_one_wins(old, new):
    def run(pairs):
        key, score = np.array(pairs or np.empty((0, 2))).T
        return Run.of(key.astype(np.int64), score.astype(np.float32))

    expected = sorted({**dict(reversed(new)), **dict(reversed(old))}.items())
    for result in (merged(run(old), run(new)), united([run(old), run(new)])):
        assert list(zip(result.key_P.tolist(), result.score_P.tolist(), strict=True)) == expected


class Killed(BaseException):
    """The process ends here: no file operation after this one."""


class Kill:
    """Lets `left` file operations pass; from then on every one of them raises."""

    def __init__(self, left):
        self.left = left

    def tick(self):
        self.left -= 1
        if self.left < 0:
            raise Killed

    def before(self, operation):
        def wrapped(*args, **kwargs):
            self.tick()
            return operation(*args, **kwargs)

        return wrapped


def train(folder, steps, kill, durable):
    """Steps of a run that is killed somewhere; durable holds the last checkpoint: its state and what it stands for."""
    store = ConnectionStore(folder, "f")
    if durable:
        store.rollback(durable[-1][0])
    for step in steps:
        if isinstance(step, tuple):
            put(store, (*step, step[0] / 8))
        elif step == "checkpoint":
            state = store.commit()
            kill.tick()  # writing the checkpoint is one more operation
            durable.append((state, content(store)))
        else:
            getattr(store, step)()


steps = st.lists(
    st.one_of(st.tuples(st.integers(0, 5), st.integers(0, 5)), st.sampled_from(["flush", "merge", "checkpoint"])),
    max_size=14,
)


@settings(deadline=None, max_examples=100)
@given(st.lists(st.tuples(steps, st.integers(0, 40)), min_size=1, max_size=3))
def test_after_a_kill_anywhere_rollback_restores_the_last_checkpoint(tmp_path_factory, lives):
    folder = tmp_path_factory.mktemp("store")
    durable = []
    for life, left in lives:
        kill = Kill(left)
        with (
            mock.patch.object(os, "replace", kill.before(os.replace)),
            mock.patch.object(os, "fsync", kill.before(lambda descriptor: None)),
            mock.patch.object(Path, "unlink", kill.before(Path.unlink)),
            contextlib.suppress(Killed),
        ):
            train(folder, life, kill, durable)
        if durable:
            state, expected = durable[-1]
            store = ConnectionStore(folder, "f")
            store.rollback(state)
            assert content(store) == expected
            assert store.rows == len(expected)
            assert {*files(folder)} >= {*state["rows"]}
            store.commit()  # with it goes what was merged away before the state
            assert files(folder) == sorted([*state["rows"], "store.json"])
