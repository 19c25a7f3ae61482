"""What a setting costs: seconds a step, and to plan an epoch, of every row of the paper's table of rivals.

    python projects/benchmarks/rivals.py --json projects/benchmarks/rivals.json

Each setting is trained by the real command, from scratch for three epochs, of which the last counts: by then GRIT and
S-ITC are there in all. Image tokens are cached. The runs take turns, a step each, and what is compared is one turn:
medians and quartiles over the steps of a step's ratio to that of plain BLIP-2. Mining offline is timed once.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import tempfile
import time
import timeit
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pandas as pd
from children import arguments, in_child
from machine import about
from turns import in_turns

from lavis_mafa import train
from lavis_mafa.core.grit import GritPlanner
from lavis_mafa.core.plan import Plan
from lavis_mafa.mining_job import job as mine
from lavis_mafa.reports.table import write_json
from lavis_mafa.runners.grit import GritRunner

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "projects" / "mafa" / "paper"))
from axes import PLAIN  # noqa: E402
from cells import Cell  # noqa: E402
from items import ITEMS  # noqa: E402
from rows import HEAVY  # noqa: E402

EPOCHS = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=1920)
    parser.add_argument("--settings", nargs="+", help="names of rows beside plain BLIP-2; default: all")
    parser.add_argument("--options", nargs="*", default=[], help="more options of the training command")
    parser.add_argument("--json", type=Path, required=True, help="the file of results")
    given = parser.parse_args()
    multiprocessing.set_forkserver_preload(HEAVY)  # a run's process is forked from one that has imported LAVIS (7 s)
    options = (f"datasets.scenes.splits.train.n={given.records}", *given.options)
    cells = {row.name: row.cell.with_options(*options) for row in ITEMS["rivals"].rows}
    (plain,) = (name for name, cell in cells.items() if set(PLAIN) <= set(cell.options))
    names = [name for name in cells if name in (plain, *(given.settings or cells))]
    machine = about()
    with tempfile.TemporaryDirectory() as folder:
        mining = {name: in_child(mined, cells[name], folder) for name in names if cells[name].verdicts}
        runs = dict(zip(names, in_turns(trained, [(cells[name], folder) for name in names]), strict=True))
    found = compared(runs, plain)
    write_json(given.json, {**machine, "mining_s": mining, "settings": found.to_dict("records"), "runs": runs})
    print(found.to_string(index=False))


def mined(cell: Cell, folder: str) -> float:
    """Seconds to mine the verdicts that a cell reads."""
    assert cell.verdicts
    arguments(str(ROOT / cell.verdicts.config), [*cell.verdicts.options, f"run.output_dir={folder}/mined"])
    began = time.perf_counter()
    mine.main()
    return time.perf_counter() - began


def trained(next_turn: Callable[[], None], cell: Cell, folder: str) -> dict[str, list[float]]:
    """Seconds of each step of the last epoch but its first, which plans; and of its plan, made five times over."""
    steps, plans = [], []
    plan, after_step = GritPlanner.plan, GritRunner._after_step
    began = 0.0

    def timed_plan(*given: Any, **more: Any) -> Any:
        plans[:] = timeit.repeat(lambda: plan(*given, **more), number=1, repeat=5)
        return plan(*given, **more)

    def timed_step(self: GritRunner, epoch: int, about: Plan, step: int, *given: Any) -> Any:
        nonlocal began
        shown = after_step(self, epoch, about, step, *given)
        if epoch == EPOCHS - 1 and step:
            steps.append(time.perf_counter() - began)
        next_turn()
        began = time.perf_counter()
        return shown

    with (
        tempfile.TemporaryDirectory(dir=folder) as output,
        mock.patch.object(GritPlanner, "plan", timed_plan),
        mock.patch.object(GritRunner, "_after_step", timed_step),
    ):
        more = [f"run.output_dir={output}", f"run.token_folder={folder}/tokens"]
        more += [f"run.max_epoch={EPOCHS}", "run.test_splits=[]"]
        if cell.verdicts:
            more.append(f"run.con_d.path={folder}/mined/connections.parquet")
        arguments(str(ROOT / cell.config), [*cell.options, *more])
        train.run("", evaluate=False)
    return {"step_s": steps, "plan_s": plans}


def compared(runs: dict[str, dict[str, list[float]]], plain: str) -> pd.DataFrame:
    """A line a setting, in the order of the table."""
    baseline = np.array(runs[plain]["step_s"])
    lines = []
    for name, run in runs.items():
        low, middle, high = np.quantile(np.array(run["step_s"]) / baseline, (0.25, 0.5, 0.75))
        seconds = {column: float(np.median(run[column])) for column in ("step_s", "plan_s")}
        lines.append({"setting": name, **seconds, "times_plain": middle, "quartiles": [low, high]})
    return pd.DataFrame(lines)


if __name__ == "__main__":
    main()
