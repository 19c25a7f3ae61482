import json
import shutil

import numpy as np
import pytest
import torch

from lavis_mafa.core.embeddings import HEADER_BYTES, EmbeddingStore

N, D = 10, 4


def store(folder, rank=0, world=1, fingerprint="f", n=N, dim=D):
    return EmbeddingStore(folder, n, dim, fingerprint, rank, world)


def rows(index, shift=0.0):
    """Image embedding i, text embedding -i (+ shift), in every dimension."""
    image = np.repeat(np.asarray(index, np.float32)[:, None], D, 1) + shift
    return np.asarray(index), image, -image


def test_two_ranks_write_and_one_gathers(tmp_path):
    ranks = [store(tmp_path, rank, 2) for rank in (0, 1)]
    for rank, index in zip(ranks, ([7, 2], [5, 0, 9]), strict=True):
        rank.begin_epoch(0, len(index))
        rank.write(*rows(index))
        assert rank.commit() == {"epoch": 0, "rows": len(index)}
    found = ranks[0].gather(0)
    assert found.index.tolist() == [0, 2, 5, 7, 9] and found.missing.tolist() == [1, 3, 4, 6, 8]
    image, text = found.image(np.array([9, 2, 2])), found.text(np.array([5, 0]))
    assert image.dtype == np.float16 and image[:, 0].tolist() == [9, 2, 2] and text[:, 3].tolist() == [-5, 0]
    with pytest.raises(AssertionError, match="without an embedding"):
        found.image(np.array([1]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_tensors_of_any_float_type(tmp_path, dtype):
    one = store(tmp_path)
    one.begin_epoch(0, 2)
    values = torch.tensor([[1.5, -2.0, 0.25, 8.0]], dtype=dtype, requires_grad=True)
    one.write(torch.tensor([3]), values, 2 * values)
    found = one.gather(0)
    assert found.image(np.array([3])).tolist() == values.tolist()
    assert found.text(np.array([3])).tolist() == (2 * values).tolist()


def test_of_a_record_written_twice_the_last_row_stays(tmp_path):
    one = store(tmp_path)
    one.begin_epoch(0, 4)
    one.write(*rows([4, 4]))
    one.write(*rows([4, 1], shift=100.0))
    assert one.gather(0).image(np.array([4]))[0, 0] == 104


def test_two_epochs_are_kept_and_an_epoch_begins_empty(tmp_path):
    one = store(tmp_path)
    for epoch in range(3):
        one.begin_epoch(epoch, 1)
        assert len(one.gather(epoch).index) == 0
        one.write(*rows([epoch]))
        one.commit()
    assert one.gather(1).index.tolist() == [1] and one.gather(2).index.tolist() == [2]
    with pytest.raises(ValueError, match="epoch is 2, expected 0"):
        one.gather(0)


def test_rollback_drops_what_came_after_the_commit_and_goes_on(tmp_path):
    one = store(tmp_path)
    one.begin_epoch(0, N)
    one.write(*rows([1, 2]))
    state = json.loads(json.dumps(one.commit()))
    one.write(*rows([3, 2], shift=50.0))
    one.commit()
    one.close()
    with open(next(tmp_path.iterdir()), "ab") as file:
        file.write(b"half a row")  # killed while writing
    again = store(tmp_path)
    with pytest.raises(ValueError, match="cut off"):
        again.gather(0)
    again.rollback(state)
    again.write(*rows([5]))
    assert again.commit() == {"epoch": 0, "rows": 3}
    found = again.gather(0)
    assert found.index.tolist() == [1, 2, 5] and found.image(np.array([2]))[0, 0] == 2


def test_rollback_to_the_beginning_of_an_epoch_needs_no_file(tmp_path):
    one = store(tmp_path)
    one.begin_epoch(1, N)
    state = one.commit()
    one.begin_epoch(2, N)
    one.begin_epoch(3, N)  # in the place of epoch 1
    one.rollback(state)
    one.write(*rows([8]))
    assert one.gather(1).index.tolist() == [8]


def test_rollback_beyond_the_end_is_an_error(tmp_path):
    one = store(tmp_path)
    one.begin_epoch(0, N)
    one.write(*rows([1, 2]))
    one.commit()
    with pytest.raises(ValueError, match="incomplete: it has fewer than 3 rows"):
        one.rollback({"epoch": 0, "rows": 3})


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 70_000.0])
def test_what_float16_cannot_hold_is_an_error_that_names_the_record(tmp_path, bad):
    one = store(tmp_path)
    one.begin_epoch(0, N)
    index, image, text = rows([3, 6])
    text[1, 2] = bad
    with pytest.raises(ValueError, match=r"records \[6\]"):
        one.write(index, image, text)
    assert one.commit()["rows"] == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fingerprint": "g"}, "fingerprint is 'f', expected 'g'"),
        ({"n": 11}, "n_records is 10, expected 11"),
        ({"dim": 8}, "dim is 4, expected 8"),
        ({"world": 2}, "world is 1, expected 2"),
    ],
)
def test_a_foreign_store_is_reported_with_what_differs(tmp_path, change, message):
    one = store(tmp_path)
    one.begin_epoch(0, N)
    one.write(*rows([1]))
    state = one.commit()
    for use in (lambda other: other.gather(0), lambda other: other.rollback(state)):
        with pytest.raises(ValueError, match=message):
            use(store(tmp_path, **change))


def test_missing_and_torn_files_are_reported(tmp_path):
    one = store(tmp_path)
    with pytest.raises(ValueError, match="is missing"):
        one.gather(0)
    one.begin_epoch(0, N)
    one.write(*rows([1, 2]))
    one.commit()
    path = next(tmp_path.iterdir())
    assert path.stat().st_size == HEADER_BYTES + 2 * (8 + 2 * D * 2)
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(ValueError, match="cut off"):
        one.gather(0)
    path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(ValueError, match="damaged or not a readable embedding file"):
        one.gather(0)


def test_a_full_disk_is_reported_before_the_epoch(tmp_path):
    with pytest.raises(ValueError, match="free some disk space"):
        store(tmp_path).begin_epoch(0, 10**15)


@pytest.mark.parametrize(("free", "fits"), [(2, True), (1, False)])  # files of a rank's N rows
def test_the_disk_must_have_room_for_all_ranks(tmp_path, monkeypatch, free, fits):
    """Each compared its own share alone. What the epoch replaces, and what a quick rank wrote of it, counts as free."""
    ranks = [store(tmp_path, rank=rank, world=4) for rank in range(4)]
    size = N * (8 + 2 * D * 2)
    for rank in (0, 1):  # the others' files of two epochs ago are gone
        ranks[rank].begin_epoch(0, 0)
        ranks[rank].write(*rows(range(N)))
        ranks[rank].commit()
    usage = shutil.disk_usage(tmp_path)._replace(free=free * size)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    if fits:
        ranks[3].begin_epoch(2, N)
    else:
        with pytest.raises(ValueError, match="embeddings of 4 processes need"):
            ranks[3].begin_epoch(2, N)
