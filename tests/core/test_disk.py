"""A disk without room: a limit of the size of a file (ulimit -f) stands in for it, as the system refuses alike."""

from __future__ import annotations

import errno
import os
import resource
from contextlib import contextmanager

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from lavis_mafa.common import disk
from lavis_mafa.common.artifacts import atomic_folder, atomic_write
from lavis_mafa.common.cached_rows import cached_rows
from lavis_mafa.common.disk import DiskFullError, full_disk_named
from lavis_mafa.core.embeddings import EmbeddingStore
from lavis_mafa.evaluation.predictions import Predictions
from lavis_mafa.mining.resumable import filled

LIMIT = 1 << 16
NUMBERS = np.random.default_rng(0).random(1 << 16)
FORMATS = {
    "checkpoint.pth": lambda file: torch.save({"a": torch.from_numpy(NUMBERS)}, file),
    "array.npy": lambda file: np.save(file, NUMBERS),
    "plan.npz": lambda file: np.savez(file, order=NUMBERS),
    "table.parquet": lambda file: pq.write_table(pa.table({"a": NUMBERS}), file),
    "text.csv": lambda file: file.write(NUMBERS.tobytes()),
}


@contextmanager
def full_disk():
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.parametrize("name", FORMATS)
def test_a_file_of_any_format_names_the_full_disk_and_the_old_one_stays(tmp_path, name):
    path = tmp_path / name
    path.write_text("old")
    named = rf"{name} could not be written \(/.*: .* MB are free\); make room"
    with full_disk(), pytest.raises(DiskFullError, match=named), atomic_write(path) as file:
        FORMATS[name](file)
    assert path.read_text() == "old" and [path.name for path in tmp_path.iterdir()] == [name]


def test_so_does_a_folder(tmp_path):
    with (
        full_disk(),
        pytest.raises(DiskFullError, match="gallery could not be"),
        atomic_folder(tmp_path / "gallery") as new,
    ):
        (new / "data.js").write_bytes(NUMBERS.tobytes())
    assert not list(tmp_path.iterdir())


def test_a_memory_map_takes_its_room_before_the_work_begins(tmp_path):
    """On a sparse file the first write beyond the disk's end is a bus error, which no error message survives."""
    asked = []

    def compute(parts):
        for part in parts:
            asked.append(part)
            yield np.ones((len(part), 64), np.float32)

    with full_disk(), pytest.raises(DiskFullError, match="images.partial could not be written"):
        filled(tmp_path / "images.npy", 1000, 100, compute, "images")
    assert len(asked) == 1 and not list(tmp_path.iterdir())
    assert filled(tmp_path / "images.npy", 1000, 100, compute, "images").shape == (1000, 64)
    assert (tmp_path / "images.npy").stat().st_blocks * 512 >= 1000 * 64 * 4, "no hole is left"


def test_cached_rows_take_their_room_before_the_work_goes_on(tmp_path):
    seen = []

    def parts():
        for number in range(100):
            seen.append(number)
            yield torch.ones(8, 64)

    with full_disk(), pytest.raises(DiskFullError, match="tokens_.*npy could not be written"):
        cached_rows(tmp_path, "tokens", ["a"], 800, parts, "")
    assert seen == [0] and not list(tmp_path.glob("[!.]*"))


def test_stores_that_grow_name_the_full_disk(tmp_path):
    store = EmbeddingStore(tmp_path, 1000, 256, "f")
    store.begin_epoch(0, 10)
    with full_disk(), pytest.raises(DiskFullError, match=r"embeddings_even_rank0\.bin could not be written"):
        for record in range(1000):
            store.write([record], np.ones((1, 256)), np.ones((1, 256)))
        store.commit()
    predictions = Predictions(tmp_path, "test", 0, {})
    with full_disk(), pytest.raises(DiskFullError, match=r"test_rank0\.jsonl could not be written"):
        predictions.append(dict.fromkeys(range(10000), "a long answer"))


@pytest.mark.parametrize(("number", "why"), [(errno.ENOSPC, "the disk is full"), (errno.EDQUOT, "quota is used up")])
def test_a_full_disk_and_a_quota_are_told_apart(tmp_path, monkeypatch, number, why):
    with pytest.raises(DiskFullError, match=f"{why}: .*a.pth"), full_disk_named(tmp_path / "a.pth"):
        raise OSError(number, os.strerror(number))

    def refuses(descriptor, size):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(disk, "allocate", refuses)
    with pytest.raises(DiskFullError, match=why), full_disk_named(tmp_path / "a.pth"):
        raise RuntimeError("unexpected pos 3062656 vs 3062546")


def test_errors_of_another_kind_stay_what_they_are(tmp_path):
    with pytest.raises(RuntimeError, match="unexpected pos"), full_disk_named(tmp_path / "a.pth"):
        raise RuntimeError("unexpected pos")
    with pytest.raises(PermissionError), full_disk_named(tmp_path / "a.pth"):
        raise PermissionError(errno.EACCES, "Permission denied")
