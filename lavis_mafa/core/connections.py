"""Scores of pairs (record, caption) on disk, 12 bytes a pair. Tested in tests/core/test_connections.py.

A folder holds store.json (format, fingerprint) and runs of sorted pairs. Everything else follows from the names:
  part_{generation}_r{rank}_{number}.npy   what one rank scored since the last merge
  merged_{generation}.npy                  merged_{generation-1} and all parts of generation-1
The newest merged run and the parts of its generation are live. A rank looks pairs up in the merged run and in its own
parts, so its results do not depend on the progress of other ranks. Files (see runs.py) are written atomically and never
changed: a kill at any moment leaves whole files, and rollback only deletes those written after a state. A file that was
merged is deleted at the second commit after the merge, because until then the newest checkpoint may name it.

With several ranks: all flush, barrier, rank 0 merges or commits, barrier, all reload (after a merge).
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from lavis_mafa.common.artifacts import atomic_write, check_header, reading, sweep
from lavis_mafa.common.formats import Header, check_format, header
from lavis_mafa.core.runs import Floats, Ints, Run, merged, united

KEY = ("record", "text_row")  # of a pair
BUFFERED_PAIRS = 1 << 16  # before a part is written: 0.8 MB on disk
RESUME = "Resume from the newest checkpoint, or start anew with another folder."


class StoreHeader(Header):
    """What the folder's store.json holds."""

    fingerprint: str


class Committed(StoreHeader):
    """A committed state of the store, as checkpoints keep it. rows: pairs in every file that counts."""

    generation: int
    rows: dict[str, int]


class ConnectionStore:
    """Scores P(match) keyed by (index of the record, text_row), append-only, shared by the ranks after each merge.

    folder: made if missing; None keeps everything in memory. fingerprint: of data, scorer weights and preparation.
    state: a committed state that `rollback` will return to; files written after it may be damaged.

    Raises:
        ValueError: the folder holds another fingerprint or format, or a damaged file, or as `check` does.
    """

    def __init__(
        self, folder: str | Path | None, fingerprint: str, rank: int = 0, state: Committed | None = None
    ) -> None:
        self.fingerprint = fingerprint
        self.rank = rank
        self._folder = None if folder is None else Path(folder)
        self._memory: dict[str, Run] = {}  # the files of a store without folder
        self._buffer: dict[int, float] = {}
        if self._folder is not None:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._check_folder(self._folder / "store.json")
        if state is None:
            self.reload()
            self._committed = set(self._live_names())
        else:
            self._return_to(state)

    @property
    def rows(self) -> int:
        """Number of stored pairs that this rank sees: the merged ones and its own."""
        return sum(map(len, self._seen.values())) + len(self._buffer)

    def lookup(self, record_K: Ints, text_row_K: Ints) -> Floats:
        """(K,) float32 scores, NaN where the store has none."""
        key_K = _keys(record_K, text_row_K)
        score_K = np.array([self._buffer.get(key, np.nan) for key in key_K.tolist()], dtype=np.float32)
        for run in self._seen.values():
            at_K, found_K = run.find(key_K)
            score_K[found_K] = run.score_P[at_K[found_K]]
        return score_K

    def add(self, record_K: Ints, text_row_K: Ints, score_K: Floats) -> None:
        """Store scores; the first score of a pair stays.

        Args:
            record_K: (K,) record of each pair's image.
            text_row_K: (K,) row of its caption in the record table.
            score_K: (K,) P(match).
        """
        assert len(record_K) == len(text_row_K) == len(score_K), "one score for each pair"
        assert np.isfinite(score_K).all(), "a score is a finite number"
        new_K = np.isnan(self.lookup(record_K, text_row_K))
        for key, score in zip(_keys(record_K, text_row_K)[new_K].tolist(), score_K[new_K].tolist(), strict=True):
            self._buffer.setdefault(key, score)
        if len(self._buffer) >= BUFFERED_PAIRS:
            self.flush()

    def flush(self) -> None:
        """Write the buffer as a part of this rank; an empty buffer writes nothing."""
        if not self._buffer:
            return
        stem, taken = f"part_{self._generation}_r{self.rank}_", self._names()
        name = next(f"{stem}{n}.npy" for n in itertools.count() if f"{stem}{n}.npy" not in taken)
        self._seen[name] = self._write(name, self._buffered())
        self._buffer.clear()

    def merge(self) -> None:
        """Merge the live runs of all ranks into one; a pair that was scored twice keeps the score of the first run.

        Call it on one rank at the end of an epoch, after all have flushed. Takes 12 bytes of memory per pair.
        """
        self.flush()
        names = self._live_names()
        old = [self._read(name) for name in names if name.startswith("merged")]
        parts = [self._read(name) for name in names if name.startswith("part")]
        if not parts:
            return
        new = united(parts)
        self._write(f"merged_{self._generation + 1}.npy", merged(old[0], new) if old else new)
        self.reload()

    def reload(self) -> None:
        """Read the current state of the folder: the newest merged run and this rank's parts since then."""
        self._generation = max((_generation(name) for name in self._names() if name.startswith("merged")), default=0)
        self._see(self._live_names())

    def commit(self) -> Committed:
        """Flush, and return a state in plain types that names the stored files, for a checkpoint.

        Rank 0 then deletes the files that neither this state nor the previous one names, so the checkpoint with the
        previous state must be on disk by now. With several ranks, rank 0's state holds for all.
        """
        self.flush()
        rows = {name: len(self._read(name)) for name in self._live_names()}
        if self.rank == 0:
            old = {name for name in self._names() if _generation(name) < self._generation}
            self._delete(old - self._committed)
        self._committed = set(rows)
        return {**self._header(), "generation": self._generation, "rows": rows}

    def check(self, state: Committed) -> None:
        """Whether `rollback` can return to a state; changes nothing.

        Raises:
            ValueError: the state is of another store or names files that are gone or damaged.
        """
        self._check(Path("the checkpoint"), state)
        for name, rows in state["rows"].items():
            found = len(self._read(name))
            if found != rows:
                raise ValueError(
                    f"{self._where(name)} contains {found} pairs, but the checkpoint expects {rows}. {RESUME}"
                )

    def rollback(self, state: Committed) -> None:
        """Return to a committed state; everything written after it is dropped (by rank 0; then a barrier).

        Called by every rank. Raises ValueError as `check` does; then nothing is dropped.
        """
        self._return_to(state)
        if self.rank == 0:
            after = {name for name in self._names() if _generation(name) >= self._generation}
            self._delete(after - self._committed)  # files merged before stay until the next commit
            if self._folder is not None:
                sweep(self._folder)

    def _return_to(self, state: Committed) -> None:
        self.check(state)
        self._buffer.clear()
        self._generation = state["generation"]
        self._committed = set(state["rows"])
        self._see(state["rows"])

    def to_frame(self, connections: str | Path | None = None) -> pd.DataFrame:
        """All pairs, of all ranks' files, as columns record, text_row, score, sorted by record and text_row.

        connections: the connections.parquet mined with this store, whose columns are joined (image, caption, ITC
        similarity, ranks, verdict, ...); they are empty for pairs that are no candidates, such as own pairs.

        Raises:
            ValueError: that file was mined with another store.
        """
        run = united([*(self._read(name) for name in self._live_names()), self._buffered()])
        frame: pd.DataFrame = pd.DataFrame(
            {"record": run.key_P >> 32, "text_row": run.key_P & 0xFFFFFFFF, "score": run.score_P}
        )
        return frame if connections is None else frame.merge(self._mined(Path(connections)), "left", [*KEY])

    def _mined(self, path: Path) -> pd.DataFrame:
        found = (pq.read_schema(path).metadata or {}).get(b"fingerprint", b"").decode()
        check_header(
            path, {"fingerprint": found}, {"fingerprint": self.fingerprint}, "Use the file that was mined with it"
        )
        mined = pd.read_parquet(path)
        # ids have 63 bits: with what is empty beside them, NumPy's whole numbers would become floats
        ids = mined.columns.difference([*KEY]).intersection(mined.select_dtypes("integer").columns)
        whole: pd.DataFrame = mined.astype(dict.fromkeys(ids, "Int64"))
        return whole

    def _buffered(self) -> Run:
        return Run.of(np.array([*self._buffer], dtype=np.int64), np.array([*self._buffer.values()], dtype=np.float32))

    def _names(self) -> set[str]:
        if self._folder is None:
            return set(self._memory)
        return {path.name for kind in ("part", "merged") for path in self._folder.glob(f"{kind}_*.npy")}

    def _live_names(self) -> list[str]:
        return sorted(name for name in self._names() if _generation(name) == self._generation)

    def _see(self, names: Iterable[str]) -> None:
        own = ("merged_", f"part_{self._generation}_r{self.rank}_")
        self._seen = {name: self._read(name) for name in names if name.startswith(own)}

    def _delete(self, names: set[str]) -> None:
        for name in names:
            self._memory.pop(name, None)
            if self._folder is not None:
                (self._folder / name).unlink(missing_ok=True)

    def _where(self, name: str) -> str:
        return str(self._folder / name) if self._folder is not None else f"run {name} (in memory)"

    def _read(self, name: str) -> Run:
        if name not in self._names():
            raise ValueError(f"{self._where(name)} is missing. {RESUME}")
        if self._folder is None:
            return self._memory[name]
        with reading(self._folder / name, "run of scores", f"Delete it, or: {RESUME}"):
            return Run.load(self._folder / name)

    def _write(self, name: str, run: Run) -> Run:
        if self._folder is None:
            self._memory[name] = run
            return run
        run.save(self._folder / name)
        return self._read(name)

    def _check_folder(self, path: Path) -> None:
        if not path.exists():
            if self._names():
                raise ValueError(f"{path} is missing beside the runs of a store: restore it, or: {RESUME}")
            with atomic_write(path) as file:
                file.write(json.dumps(self._header()).encode())
        with reading(path, "header of a store", RESUME):
            found = json.loads(path.read_text())
        self._check(path, found)

    def _header(self) -> StoreHeader:
        return {**header("connections"), "fingerprint": self.fingerprint}

    def _check(self, path: Path, found: Mapping[str, object]) -> None:
        remedy = "The scores are of other data or another scorer: choose another folder, or delete it to score anew"
        check_format(path, "connections", found, "choose another folder, or delete it to score anew")
        check_header(path, found, {"fingerprint": self.fingerprint}, remedy)


def _keys(record_K: Ints, text_row_K: Ints) -> Ints:
    record_K, text_row_K = np.asarray(record_K, dtype=np.int64), np.asarray(text_row_K, dtype=np.int64)
    assert ((record_K >= 0) & (record_K < 1 << 31)).all(), "a record number has 31 bits"
    assert ((text_row_K >= 0) & (text_row_K < 1 << 32)).all(), "a text row has 32 bits"
    return record_K << 32 | text_row_K


def _generation(name: str) -> int:
    return int(name.removesuffix(".npy").split("_")[1])
