"""EmbeddingStore: the ITC embeddings of every record on disk, from which the next epoch's batches are planned.

Every rank appends rows (record, image embedding, text embedding) to a file of its own, in the order of its steps;
rank 0 reads them all. Two epochs are kept, even and odd: 2 · N · D · 2 bytes each, plus 8 bytes per record number.
"""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from lavis_mafa.common.artifacts import atomic_write, check_header, reading, sync
from lavis_mafa.common.disk import full_disk_named
from lavis_mafa.common.formats import check_format, header
from lavis_mafa.core.neighbors import Index, IntArray

HEADER_BYTES = 4096
REMEDY = "Resume with the data, config and number of processes it was written with, or start in an empty folder."
OLD = "go on with the version that wrote it, or start in an empty folder"


class EmbeddingStore:
    """Float16 embeddings of N records, written by rank `rank` of `world`.

    Args:
        folder: where the ranks' files lie; shared by all ranks.
        n_records, dim: N and D.
        fingerprint: names data, weights and config; a file with another one is refused.
    """

    def __init__(
        self, folder: str | Path, n_records: int, dim: int, fingerprint: str, rank: int = 0, world: int = 1
    ) -> None:
        assert 0 <= rank < world
        self.folder, self.rank, self.world = Path(folder), rank, world
        self._row = np.dtype([("index", "<i8"), ("image", "<f2", (dim,)), ("text", "<f2", (dim,))])
        self._about = {"fingerprint": fingerprint, "n_records": n_records, "dim": dim, "world": world}
        self._n_records = n_records
        self._file: BinaryIO | None = None
        self._epoch = -1

    def begin_epoch(self, epoch: int, rows: int) -> None:
        """Starts this rank's file of `epoch`, replacing that of two epochs ago; the file of the previous epoch stays.

        Raises:
            ValueError: the disk has no room for what all ranks are going to write, `rows` each.
        """
        self.close()
        path = self._path(epoch, self.rank)
        with atomic_write(path) as file:
            about = json.dumps({**header("embeddings"), **self._about, "rank": self.rank, "epoch": epoch}).encode()
            assert len(about) < HEADER_BYTES, "the fingerprint must be short, as a hash is"
            file.write(about.ljust(HEADER_BYTES))
        self._check_room(epoch, rows)
        self._open(epoch)

    def _check_room(self, epoch: int, rows: int) -> None:
        """What the ranks' files of two epochs ago still hold will be free, and what a quick rank wrote is not needed
        again."""
        files = [self._path(epoch, rank) for rank in range(self.world)]
        held = sum(path.stat().st_size - HEADER_BYTES for path in files if path.exists())
        needed, free = self.world * rows * self._row.itemsize, shutil.disk_usage(self.folder).free + held
        if needed > free:
            raise ValueError(
                f"{self.folder}: the embeddings of {self.world} processes need {needed:,} bytes, but only {free:,} are "
                "free: free some disk space"
            )

    def write(self, index_B: ArrayLike, image_BD: ArrayLike, text_BD: ArrayLike) -> None:
        """Append a batch.

        Args:
            index_B: (B,) records.
            image_BD: (B, D) their image embeddings, a tensor or an array of any float type; stored as float16.
            text_BD: (B, D) those of the captions.

        Raises:
            ValueError: an embedding is NaN, infinite, or beyond float16 (65,504).
        """
        assert self._file is not None, "begin_epoch comes first"
        index = _array(index_B).astype(np.int64)
        rows = np.empty(len(index), self._row)
        rows["index"] = index
        with np.errstate(over="ignore"):  # an overflow becomes inf, which the next check reports with its record
            rows["image"], rows["text"] = _array(image_BD), _array(text_BD)
        assert ((index >= 0) & (index < self._n_records)).all(), "a record number outside the data set"
        bad = ~(np.isfinite(rows["image"]).all(1) & np.isfinite(rows["text"]).all(1))
        if bad.any():
            raise ValueError(
                f"the embeddings of records {index[bad][:8].tolist()} are NaN, infinite or beyond float16's 65,504: "
                "normalise them, and check that the loss is finite (lower the learning rate, or use bf16 instead "
                "of fp16)"
            )
        with full_disk_named(self._path(self._epoch, self.rank)):
            self._file.write(rows.tobytes())

    def commit(self) -> dict[str, int]:
        """Flushes to disk; the state {epoch, rows} that a checkpoint keeps, and `rollback` takes."""
        assert self._file is not None, "begin_epoch comes first"
        path = self._path(self._epoch, self.rank)
        with full_disk_named(path):
            sync(self._file)
        return {"epoch": self._epoch, "rows": self._rows_in(path)}

    def check(self, state: dict[str, int]) -> None:
        """Checks that `rollback` can return to a state; changes nothing.

        Raises:
            ValueError: the file is missing, foreign, or shorter than the state says.
        """
        epoch, rows = state["epoch"], state["rows"]
        if rows == 0:  # nothing to keep, so the file does not matter
            return
        path = self._path(epoch, self.rank)
        self._check(path, epoch, self.rank)
        if path.stat().st_size < HEADER_BYTES + rows * self._row.itemsize:
            raise ValueError(f"{path} is incomplete: it has fewer than {rows} rows. Resume from another checkpoint.")

    def rollback(self, state: dict[str, int]) -> None:
        """Returns to a committed state: drops this rank's later rows and continues from there.

        Raises:
            ValueError: as `check` does.
        """
        self.check(state)
        epoch, rows = state["epoch"], state["rows"]
        if rows == 0:
            self.begin_epoch(epoch, 0)
            return
        self.close()
        os.truncate(self._path(epoch, self.rank), HEADER_BYTES + rows * self._row.itemsize)
        self._open(epoch)

    def gather(self, epoch: int) -> "Embeddings":
        """The embeddings that all ranks committed in `epoch`, memory-mapped.

        Raises:
            ValueError: a rank's file is missing, foreign or torn.
        """
        if self._file is not None:
            self._file.flush()
        shards = [self._map(epoch, rank) for rank in range(self.world)]
        index = np.concatenate([shard["index"] for shard in shards])
        place_N = np.full(self._n_records, -1, np.int64)
        place_N[index] = np.arange(len(index))  # a record that was written twice keeps its last row
        return Embeddings(epoch, place_N, shards)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _path(self, epoch: int, rank: int) -> Path:
        return self.folder / f"embeddings_{'odd' if epoch % 2 else 'even'}_rank{rank}.bin"

    def _open(self, epoch: int) -> None:
        self._file = open(self._path(epoch, self.rank), "ab")  # noqa: SIM115 (open until `close`)
        self._epoch = epoch

    def _rows_in(self, path: Path) -> int:
        return (path.stat().st_size - HEADER_BYTES) // self._row.itemsize

    def _check(self, path: Path, epoch: int, rank: int) -> None:
        with reading(path, "embedding file", REMEDY), open(path, "rb") as file:
            found = json.loads(file.read(HEADER_BYTES))
        check_format(path, "embeddings", found, OLD)
        check_header(path, found, {**self._about, "rank": rank, "epoch": epoch}, REMEDY)

    def _map(self, epoch: int, rank: int) -> NDArray[np.void]:
        path = self._path(epoch, rank)
        self._check(path, epoch, rank)
        if (path.stat().st_size - HEADER_BYTES) % self._row.itemsize:
            raise ValueError(
                f"{path} is incomplete: its last row is cut off. Resume from a checkpoint, which discards it."
            )
        if self._rows_in(path) == 0:  # an empty file cannot be mapped
            return np.empty(0, self._row)
        return np.memmap(path, self._row, "r", HEADER_BYTES)


@dataclass(frozen=True)
class Embeddings:
    """The embeddings of one epoch, read by record.

    Attributes:
        place_N: where each record's row stands in the ranks' files laid end to end; -1: it has none.
    """

    epoch: int
    place_N: IntArray
    shards: list[NDArray[np.void]]

    @property
    def index(self) -> IntArray:
        """The records that have an embedding, in rising order."""
        return np.flatnonzero(self.place_N >= 0)

    @property
    def missing(self) -> IntArray:
        """The records that have none, in rising order."""
        return np.flatnonzero(self.place_N < 0)

    def image(self, records_n: IntArray) -> NDArray[np.float16]:
        """Image embeddings (n, D) of n records."""
        return self._read("image", records_n)

    def text(self, records_n: IntArray) -> NDArray[np.float16]:
        """Text embeddings (n, D) of n records."""
        return self._read("text", records_n)

    def _read(self, field: str, records_n: IntArray) -> NDArray[np.float16]:
        place_n = self.place_N[records_n]
        assert (place_n >= 0).all(), "a record without an embedding was asked for"
        out = np.empty((len(place_n), *self.shards[0].dtype[field].shape), np.float16)
        low = 0
        for shard in self.shards:
            here = (low <= place_n) & (place_n < low + len(shard))
            out[here] = shard[field][place_n[here] - low]
            low += len(shard)
        return out


@dataclass(frozen=True)
class EmbeddingRows:
    """The rows of some records, read on demand (`neighbors.Rows`): `read` is `Embeddings.image` or `.text`."""

    read: Callable[[IntArray], NDArray[np.floating]]
    records_n: IntArray

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.records_n), self.read(self.records_n[:1]).shape[1])

    def __getitem__(self, rows: Index) -> NDArray[np.floating]:
        return self.read(self.records_n[rows])


def _array(values: ArrayLike) -> NDArray[np.generic]:
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu()
        return (values.float() if values.is_floating_point() else values).numpy()
    return np.asarray(values)
