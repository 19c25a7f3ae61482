"""steps.jsonl and epochs.jsonl: what every step and epoch found, cut back to the checkpoint when a run resumes."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import cast

import pandas as pd
from torch.utils.tensorboard import SummaryWriter

from lavis_mafa.common.artifacts import atomic_write, json_lines, sync
from lavis_mafa.common.disk import full_disk_named

Row = Mapping[str, float | str | None]


class Journal:
    """Appends rows as JSON lines and to TensorBoard (`writer`, None on ranks but the first)."""

    def __init__(self, folder: Path, writer: SummaryWriter | None) -> None:
        self.steps_path, self.epochs_path, self.writer = folder / "steps.jsonl", folder / "epochs.jsonl", writer

    def truncate(self, epoch: int, step: int) -> None:
        """Keep the rows before (epoch, step); those after it were never committed."""
        if self.writer is None:
            return
        _keep(self.steps_path, lambda row: (row["epoch"], row["step"]) < (epoch, step))
        _keep(self.epochs_path, lambda row: row["epoch"] < epoch)
        self._file = open(self.steps_path, "a")  # noqa: SIM115  open as long as the run

    def step(self, row: Row, global_step: int) -> None:
        assert self.writer is not None, "rank 0 alone writes"
        with full_disk_named(self.steps_path):
            self._file.write(json.dumps(_finite(row)) + "\n")
        for name, value in row.items():
            if value is not None:
                self.writer.add_scalar(f"train/{name}", value, global_step)

    def epoch(self, row: Row) -> None:
        assert self.writer is not None, "rank 0 alone writes"
        with full_disk_named(self.epochs_path), open(self.epochs_path, "a") as file:
            file.write(json.dumps(_finite(row)) + "\n")
            sync(file)
        for name, value in row.items():
            if isinstance(value, (int, float)):
                self.writer.add_scalar(f"epoch/{name}", value, row["epoch"])

    def steps(self, epoch: int) -> pd.DataFrame:
        self.flush()
        rows = pd.read_json(self.steps_path, lines=True)
        return rows[rows["epoch"] == epoch]

    def flush(self) -> None:
        """Down to the disk: a checkpoint counts on the rows before it."""
        assert self.writer is not None, "rank 0 alone writes"
        with full_disk_named(self.steps_path):
            sync(self._file)
            self.writer.flush()

    def close(self) -> None:
        if self.writer is not None:
            self._file.close()
            self.writer.close()


def _keep(path: Path, wanted: Callable[[dict[str, int]], bool]) -> None:
    rows = [row for row in cast(list[dict[str, int]], json_lines(path)) if wanted(row)]
    with atomic_write(path) as file:
        file.write("".join(json.dumps(row) + "\n" for row in rows).encode())


def _finite(row: Row) -> Row:
    """JSON has no NaN."""
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}
