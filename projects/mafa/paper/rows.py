"""The rows of finished runs, a JSON object a line of rows.jsonl, and the running of those that lack one.

A row stands only once its run is whole. Rows are small and kept with the report, the runs themselves are not: where
only a row is left of a run that others start from, it runs again.
"""

from __future__ import annotations

import fcntl
import importlib
import json
import math
import multiprocessing
import os
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

from cells import ROOT, Cell
from keys import MISSING, Key, leaves, missing_files

from lavis_mafa.common.artifacts import MARKER, atomic_write

HEAVY = [
    f"lavis_mafa.{name}"
    for name in ("datasets.pairs", "tasks.pretrain", "runners.grit", "runners.stage2", "models.albef.tasks")
]
WROTE = {"train": "results.json", "mine": "summary.json"}
LEFT = {"train": "model.safetensors", "mine": "connections.parquet"}  # what later runs start from
KEPT = (*WROTE.values(), *LEFT.values(), "epochs.jsonl", "steps.jsonl", "log.txt", MARKER)
# of results.json
PARTS = ("retrieval", "judgments", "connections", "plan", "itc_labels", "answers", "seconds_per_step")

Row = dict[str, Any]


class RowFile:
    """Rows by their keys, in a file sorted by key. Several processes and threads may add to it at a time."""

    def __init__(self, path: Path) -> None:
        self.path = path.resolve()

    def rows(self) -> Mapping[Key, Row]:
        """What the file holds now."""
        try:
            stat = self.path.stat()
        except FileNotFoundError:
            return {}
        return _parsed(self.path, (stat.st_ino, stat.st_mtime_ns))

    def add(self, row: Row) -> None:
        """Write the row, in place of one with its key."""
        with _locked(self.path.parent):
            rows = {**self.rows(), _key(row): row}
            lines = [json.dumps(rows[key], ensure_ascii=False, allow_nan=False) for key in sorted(rows)]
            with atomic_write(self.path) as file:
                file.write("".join(f"{line}\n" for line in lines).encode())


@lru_cache(maxsize=1)
def _parsed(path: Path, written: tuple[int, int]) -> dict[Key, Row]:
    """`written` tells one state of the file from the next."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return {_key(row): row for row in rows}


def _key(row: Row) -> Key:
    return Key(row["settings"], row["data"], row["results"])


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One at a time, of all threads and processes."""
    folder.mkdir(parents=True, exist_ok=True)
    held = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield
    finally:
        os.close(held)


class Rows:
    """The finished cells: runs in `folder`, rows in `file`. smoke: runs are shortened (--smoke)."""

    def __init__(self, folder: Path, file: Path, smoke: Path | None = None) -> None:
        self.folder, self.file, self.smoke = folder.resolve(), RowFile(file), smoke

    def of(self, cell: Cell) -> Row | None:
        """The row of a finished cell, None before it is."""
        return self.file.rows().get(cell.key)

    def newest(self, cell: Cell) -> Row | None:
        """The cell's row, or that of its last earlier results. Where its data is not on this machine, of any data.

        For tables, which say so.
        """
        key, rows = cell.key, self.file.rows()
        older = [row for own, row in rows.items() if own.settings == key.settings and key.data in (own.data, MISSING)]
        return rows.get(key) or max(older, key=lambda row: (row["results"], row.get("finished", 0)), default=None)

    def has_left(self, cell: Cell) -> bool:
        """Whether a finished cell's run is still there, for others to start from."""
        return (self._folder_of(cell) / LEFT[cell.command]).exists()

    def lacking(self, cells: Mapping[Key, Cell]) -> set[Key]:
        """The keys of those, runs before their followers, that are yet to run."""
        lacking: set[Key] = set()
        started_from: set[Key] = set()
        for key, cell in reversed(cells.items()):
            if self.of(cell) is None or (key in started_from and not self.has_left(cell)):
                lacking.add(key)
                started_from.update(before.key for before in cell.before)
        return lacking

    def seconds(self) -> list[float]:
        """What all finished runs took, those that others start from among them; not those that were cut off and
        resumed."""
        took = [seconds_of(row) for row in self.file.rows().values()]
        return [seconds for seconds in took if not math.isnan(seconds)]

    def run(self, cell: Cell) -> Row:
        """Train, or mine, where no row or no run is left; the runs before must be whole.

        Raises RuntimeError: the run failed, a run before it did, or files that it reads are not here.
        """
        if (found := self.of(cell)) and self.has_left(cell):
            return found
        if cell.key.data == MISSING:
            raise RuntimeError(f"{cell.config} reads what is not here: {'; '.join(missing_files(cell.written()))}")
        run, began = self._folder_of(cell), time.time()
        resumed = (run / "log.txt").exists()
        run.mkdir(parents=True, exist_ok=True)
        _start(cell.command, self._arguments(cell, run), run / "log.txt", run / "lock")
        row = _row(cell, json.loads((run / WROTE[cell.command]).read_text()))
        seconds, now = (round(value, 3) for value in (time.time() - began, time.time()))
        row |= {"seconds": seconds, "resumed": resumed, "finished": now}
        self.file.add(row)
        for path in run.iterdir():  # checkpoints and stores have done their service
            if path.name not in KEPT:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        return row

    def _folder_of(self, cell: Cell) -> Path:
        return self.folder / "runs" / str(cell.key)

    def _left_by(self, before: Cell) -> Path:
        if self.of(before) is None:
            raise RuntimeError("a run that it would start from has failed")
        return self._folder_of(before) / LEFT[before.command]

    def _arguments(self, cell: Cell, run: Path) -> list[str]:
        options = [*cell.options, f"run.output_dir={run}"]
        if cell.command == "train":
            options += [f"run.token_folder={self.folder / 'tokens'}", "run.resume_ckpt_path=auto"]
        if cell.after:
            options += ["model.load_pretrained=true", f"model.pretrained={self._left_by(cell.after)}"]
        if cell.verdicts:
            options.append(f"run.con_d.path={self._left_by(cell.verdicts)}")
        smoke = ["--smoke", str(self.smoke)] if self.smoke else []
        return ["--cfg-path", str(ROOT / cell.config), "--options", *options, *smoke]


def seconds_of(row: Mapping[str, Any]) -> float:
    """What the run took, the last start alone where it was cut off: then NaN."""
    return math.nan if row.get("resumed") else float(row["seconds"])


def _row(cell: Cell, results: Mapping[str, Any]) -> Row:
    about = {**cell.key._asdict(), "config": cell.config, "options": " ".join(cell.options)}
    about |= {name: results[name] for name in ("commit", "versions")}
    parts = {name: results[name] for name in PARTS if name in results}
    return {**about, "found": {name: value for name, value in leaves(parts) if value != {}}}


def _start(command: str, arguments: list[str], log: Path, lock: Path) -> None:
    """`lavis_mafa.{command}` in a process of its own, forked from one that has imported LAVIS (7 s of CPU) already."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(HEAVY)
    process = context.Process(target=_run, args=(command, arguments, log, lock))
    process.start()
    process.join()
    if process.exitcode:
        last = "".join(log.read_text().splitlines(keepends=True)[-15:])
        raise RuntimeError(f"a cell failed, and runs again at the next start; the end of {log}:\n{last}")


def _run(command: str, arguments: list[str], log: Path, lock: Path) -> None:
    held = open(lock, "w")  # noqa: SIM115  held to the end of the process: this run of a killed grid may still go on
    fcntl.flock(held, fcntl.LOCK_EX)
    with open(log, "a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.argv = [f"lavis_mafa.{command}", *arguments]
    importlib.import_module("photographs")  # beside this file: registers its data set
    importlib.import_module(f"lavis_mafa.{command}").main()
