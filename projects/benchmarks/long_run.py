"""Planning, stores and checkpoints of a long run, without training: memory, its growth from epoch to epoch, and time.

    python projects/benchmarks/long_run.py --records 1000000 --epochs 20 --json long_run.json

Every step writes random unit embeddings of its batch, looks up and stores the scores of 2B pairs (each record with the
captions of both its neighbours in the batch), and every epoch ends as a run's does: stores committed, next epoch
planned, connections merged, checkpoint written. Embeddings drawn anew each epoch make neighbours that seldom come back:
the store grows by nearly 2N pairs an epoch, the most it can. A checkpoint holds the states of the stores, no weights.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from machine import about, memory, restart_peak

from lavis_mafa.core.connections import ConnectionStore
from lavis_mafa.core.embeddings import EmbeddingStore
from lavis_mafa.core.grit import GritPlanner
from lavis_mafa.core.plan import Plan
from lavis_mafa.reports.table import write_json
from lavis_mafa.runners import checkpoint

NUMBERS = {"records": 1_000_000, "epochs": 20, "dim": 128, "batch": 96, "search_space": 4800, "save_every_steps": 2000}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in NUMBERS.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=default)
    parser.add_argument("--folder", help="where the stores are written, and removed; default: the temporary folder")
    parser.add_argument("--json", required=True, help="the file of results")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        found = LongRun(given, Path(folder)).run()
    config = {name: getattr(given, name) for name in NUMBERS}
    write_json(given.json, {**about(), "config": config, **found})
    print({name: value for name, value in found.items() if name != "epochs"})


class LongRun:
    """One process of a run, with everything but its network."""

    def __init__(self, given: argparse.Namespace, folder: Path) -> None:
        self.given, self.folder = given, folder
        self.connections = ConnectionStore(folder / "connections", "synthetic")
        self.embeddings = EmbeddingStore(folder / "embeddings", given.records, given.dim, "synthetic")
        self.planner = GritPlanner(batch_size=given.batch, search_space=given.search_space, fingerprint="synthetic")

    def run(self) -> dict[str, Any]:
        start, plan, epochs = memory()["rss_mb"], self.planner.plan(0, None, self.given.records), []
        for epoch in range(self.given.epochs):
            restart_peak()
            marks = [time.perf_counter()]
            self._steps(epoch, plan)
            marks.append(time.perf_counter())
            plan = self._plan(epoch, plan)
            marks.append(time.perf_counter())
            self._commit(epoch + 1, 0)
            marks.append(time.perf_counter())
            seconds = dict(zip(("steps", "plan", "merge_and_checkpoint"), np.diff(marks).tolist(), strict=True))
            epochs.append({"epoch": epoch, **memory(), "seconds": seconds, "pairs": self.connections.rows})
            print(epochs[-1], flush=True)
        return {"rss_at_start_mb": start, **self._summary(epochs), "epochs": epochs}

    def _steps(self, epoch: int, plan: Plan) -> None:
        self.embeddings.begin_epoch(epoch, plan.steps * plan.batch_size)
        rng = np.random.default_rng((1, epoch))
        for step, batch in enumerate(plan.batches(0)):
            image, text = (unit(rng, len(batch), self.given.dim) for _ in range(2))
            self.embeddings.write(batch, image, text)
            record, text_row = np.tile(batch, 2), np.concatenate([np.roll(batch, shift) for shift in (1, -1)])
            new = np.isnan(self.connections.lookup(record, text_row))
            self.connections.add(record[new], text_row[new], rng.random(new.sum(), dtype=np.float32))
            if (step + 1) % self.given.save_every_steps == 0 and step + 1 < plan.steps:
                self._commit(epoch, step + 1)

    def _plan(self, epoch: int, before: Plan) -> Plan:
        """Plan the next epoch from the embeddings of this one; the plan goes to disk and is read again, as in a run."""
        self.embeddings.commit()
        path = self.folder / f"plan_{epoch + 1}.npz"
        found = self.embeddings.gather(epoch)
        self.planner.plan(epoch + 1, found, self.given.records, before.untrained).save(path)
        plan = Plan.load(path, epoch=epoch + 1, n_records=self.given.records)
        assert plan.sampling == "grit" and (np.bincount(plan.order_N, minlength=self.given.records) == 1).all()
        return plan

    def _commit(self, epoch: int, step: int) -> None:
        if step == 0:
            self.connections.merge()
        states = {"connections": self.connections.commit(), "embeddings": self.embeddings.commit() if step else None}
        checkpoint.save(self.folder, epoch, step, {"stores": [states]}, keep=2)

    def _summary(self, epochs: list[dict[str, Any]]) -> dict[str, Any]:
        peaks = [epoch["peak_mb"] for epoch in epochs]
        pairs = len(self.connections.to_frame())
        newest = max((self.folder / "connections").glob("merged_*.npy"), key=lambda path: path.stat().st_mtime)
        return {
            "peak_mb": max(peaks),
            "peak_growth_mb_an_epoch": float(np.polyfit(range(1, len(peaks)), peaks[1:], 1)[0]) if peaks[2:] else None,
            "seconds_an_epoch": float(np.mean([sum(epoch["seconds"].values()) for epoch in epochs])),
            "pairs": pairs,
            "bytes_a_pair": newest.stat().st_size / pairs,
            "checkpoints": [path.name for path in checkpoint.list_checkpoints(self.folder)],
        }


def unit(rng: np.random.Generator, rows: int, dim: int) -> np.ndarray:
    vectors = rng.standard_normal((rows, dim), dtype=np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


if __name__ == "__main__":
    main()
