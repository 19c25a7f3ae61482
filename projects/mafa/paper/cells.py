"""One cell: a run of the real training or mining command, and the row file that keeps what it found.

A cell's key says its config (with the data sets, which scenes make from it) and the runs it starts from; with the
version of the code, a hash of what a run reads of the package, it names its folder and its row. A row stands only once
its run is whole. Rows are small and kept with the report, the runs themselves are not: where only a row is left of a
run that others start from, it runs again.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib
import json
import math
import multiprocessing
import os
import shutil
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from lavis_mafa.data.config_file import read_config_file
from lavis_mafa.reports.table import write_json
from lavis_mafa.smoke import shorten
from lavis_mafa.versions import source_hash

ROOT = Path(__file__).resolve().parents[3]
CODE = (".py", ".yaml", ".txt", ".json", ".safetensors")  # what a run reads of the package, its networks too
HEAVY = [f"lavis_mafa.{name}" for name in ("builders", "tasks", "runner", "stage2_runner", "models.albef_tasks")]
UNREAD = ("openclip", "reports")  # parts of the package that no run is made of
RESULTS = {"train": "results.json", "mine": "summary.json"}
LEFT = {"train": "model.safetensors", "mine": "connections.parquet"}  # what later runs start from
KEPT = (*RESULTS.values(), *LEFT.values(), "epochs.jsonl", "steps.jsonl", "log.txt")
# of results.json
PARTS = ("retrieval", "judgments", "connections", "plan", "itc_labels", "answers", "seconds_per_step")
OWN_DATA = ("photographs.py", "photographs.yaml")  # a data set that is not the package's: no part of its hash


@dataclass(frozen=True)
class Cell:
    """A run of `lavis_mafa.{command}`: a YAML, and options over it.

    after: the run whose weights it starts from. verdicts: the mining run whose connections.parquet is its Con-D, where
    the options say run.con_d={arch: file}. every_seed: one run serves all seeds.
    """

    config: str
    options: tuple[str, ...] = ()
    after: Cell | None = None
    verdicts: Cell | None = None
    command: str = "train"
    every_seed: bool = False

    @property
    def before(self) -> list[Cell]:
        """The runs that must be whole first."""
        return [cell for cell in (self.after, self.verdicts) if cell]

    def with_options(self, *options: str) -> Cell:
        """The same with these options last, here and in the runs before: of data sets, those that a run has; mining
        knows no others."""
        mine = [option for option in options if self._knows(option)]
        after, verdicts = (cell.with_options(*options) if cell else None for cell in (self.after, self.verdicts))
        return replace(self, options=(*self.options, *mine), after=after, verdicts=verdicts)

    def _knows(self, option: str) -> bool:
        section, name, *_ = option.split(".")
        return name in self.given()["datasets"] if section == "datasets" else self.command == "train"

    def with_seed(self, seed: int) -> Cell:
        """Seed of the initial weights, of the order of the data and of the captions drawn, here and in the runs that it
        starts from."""
        if self.every_seed:
            return self
        after, verdicts = (cell.with_seed(seed) if cell else None for cell in (self.after, self.verdicts))
        data = [f"datasets.{name}.seed={seed}" for name in self.given()["datasets"]]
        return replace(self, options=(*self.options, f"run.seed={seed}", *data), after=after, verdicts=verdicts)

    def given(self) -> dict[str, Any]:
        """What the YAML and the options say, shortened where LAVIS_MAFA_SMOKE asks for it; ${…} unresolved, as a key
        must not depend on where a machine has its data."""
        given: Any = OmegaConf.to_container(shorten(_config(self.config, self.options)))
        return given

    @property
    def kind(self) -> tuple[str, int | None]:
        """Runs of a kind take about the same time."""
        return self.config, self.given()["run"].get("max_epoch")

    @property
    def key(self) -> str:
        """What tells this run from others of the same code; where it writes has no part in it."""
        given = self.given()
        del given["run"]["output_dir"]
        content = json.dumps([given, *(cell.key for cell in self.before)], sort_keys=True)
        if "photographs" in given["datasets"]:
            content += "".join(Path(__file__).with_name(name).read_text() for name in OWN_DATA)
        return hashlib.blake2b(content.encode(), digest_size=8).hexdigest()


@cache
def _config(path: str, options: tuple[str, ...]) -> Any:
    return read_config_file(ROOT / path, options)


def code_version() -> str:
    """A hash of the package's files that runs read: code, defaults, packaged networks."""
    return source_hash(CODE, UNREAD)


class Rows:
    """The finished cells: runs in `folder`, rows in `rows`. `any_code`: a row of other code serves, too."""

    def __init__(self, folder: Path, rows: Path, any_code: bool = False) -> None:
        self.folder, self.rows, self.any_code = folder.resolve(), rows.resolve(), any_code
        self.code = code_version()

    def of(self, cell: Cell) -> dict[str, Any] | None:
        """The row of a finished cell, None before it is."""
        return self._read(self._path(cell)) or (self.newest(cell) if self.any_code else None)

    def newest(self, cell: Cell) -> dict[str, Any] | None:
        """The row of this code, or the last of other code: for tables, which say so."""
        older = [json.loads(path.read_text()) for path in self.rows.glob(f"{cell.key}-*.json")]
        return self._read(self._path(cell)) or max(older, key=lambda row: row.get("finished", 0), default=None)

    def has_left(self, cell: Cell) -> bool:
        """Whether a finished cell's run is still there, for others to start from."""
        return (self._folder_of(cell) / LEFT[cell.command]).exists()

    def lacking(self, cells: Mapping[str, Cell]) -> set[str]:
        """The keys of those, runs before their followers, that are yet to run."""
        lacking: set[str] = set()
        started_from: set[str] = set()
        for key, cell in reversed(cells.items()):
            if self.of(cell) is None or (key in started_from and not self.has_left(cell)):
                lacking.add(key)
                started_from.update(before.key for before in cell.before)
        return lacking

    def seconds(self) -> list[float]:
        """What finished runs of any code took, those that others start from among them; not those that were cut off
        and resumed."""
        took = [seconds_of(json.loads(path.read_text())) for path in self.rows.glob("*.json")]
        return [seconds for seconds in took if not math.isnan(seconds)]

    def run(self, cell: Cell) -> dict[str, Any]:
        """Train, or mine, where no row or no run is left; the runs before must be whole.

        Raises:
            RuntimeError: the run failed.
            ValueError: the package changed since the start, so that no row can say which code it is of.
        """
        if (found := self.of(cell)) and self.has_left(cell):
            return found
        run, began = self.folder / "runs" / self._name(cell), time.time()
        resumed = (run / "log.txt").exists()
        run.mkdir(parents=True, exist_ok=True)
        _start(cell.command, self._arguments(cell, run), run / "log.txt", run / "lock")
        self._check_code()
        row = self._row(cell, json.loads((run / RESULTS[cell.command]).read_text()))
        took = {"seconds": time.time() - began, "resumed": resumed, "finished": time.time()}
        write_json(self._path(cell), row | took)
        for path in run.iterdir():  # checkpoints and stores have done their service
            if path.name not in KEPT:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        return row | took

    def _check_code(self) -> None:
        if not self.any_code and code_version() != self.code:
            raise ValueError(
                "lavis_mafa changed while the runs went on: start again, best from a checkout that nobody edits "
                "(finished runs of the old code run anew, or serve as they are with --any-code)"
            )

    def _name(self, cell: Cell) -> str:
        return f"{cell.key}-{self.code}"

    def _path(self, cell: Cell) -> Path:
        return self.rows / f"{self._name(cell)}.json"

    @staticmethod
    def _read(path: Path) -> dict[str, Any] | None:
        return json.loads(path.read_text()) if path.exists() else None

    def _arguments(self, cell: Cell, run: Path) -> list[str]:
        options = [*cell.options, f"run.output_dir={run}"]
        if cell.command == "train":
            options += [f"run.token_folder={self.folder / 'tokens'}", "run.resume_ckpt_path=auto"]
        if cell.after:
            weights = self._folder_of(cell.after) / "model.safetensors"
            options += ["model.load_pretrained=true", f"model.pretrained={weights}"]
        if cell.verdicts:
            options.append(f"run.con_d.path={self._folder_of(cell.verdicts) / 'connections.parquet'}")
        return ["--cfg-path", str(ROOT / cell.config), "--options", *options]

    def _folder_of(self, before: Cell) -> Path:
        """What a finished run left."""
        row = self.of(before)
        if row is None:
            raise RuntimeError("a run that it would start from has failed")
        return self.folder / "runs" / f"{row['key']}-{row['code']}"

    def _row(self, cell: Cell, results: Mapping[str, Any]) -> dict[str, Any]:
        found = _flat({name: results[name] for name in PARTS if name in results})
        said = {name: results[name] for name in ("commit", "versions")}
        options = " ".join(cell.options)
        return {"key": cell.key, "code": self.code, "options": options, **said, "found": found}


def seconds_of(row: Mapping[str, Any]) -> float:
    """What the run took, the last start alone where it was cut off: then NaN."""
    return math.nan if row.get("resumed") else float(row["seconds"])


def _flat(values: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} → {"a.b": 1}"""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat.update(_flat(value, f"{before}{name}.") if isinstance(value, Mapping) else {f"{before}{name}": value})
    return flat


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
