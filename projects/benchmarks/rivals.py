"""What a setting costs: seconds a step, and to plan an epoch, of every row of the paper's table of rivals.

    python projects/benchmarks/rivals.py --json projects/benchmarks/rivals.json

Each setting is trained by the real command, from scratch for two epochs, of which the second counts: it is planned as
the setting says. The settings take turns, each run in a process of its own, image tokens cached; medians over rounds,
and of the ratio to plain BLIP-2 in the same round. Mining offline is timed once.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest import mock

import pandas as pd
from children import arguments, in_child
from machine import about

from lavis_mafa import mine, train
from lavis_mafa.core.grit import GritPlanner
from lavis_mafa.reports.table import write_json

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "projects" / "mafa" / "paper"))
from axes import PLAIN  # noqa: E402
from cells import HEAVY, Cell  # noqa: E402
from items import ITEMS  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=1920)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--settings", nargs="+", help="names of rows beside plain BLIP-2; default: all")
    parser.add_argument("--options", nargs="*", default=[], help="more options of the training command")
    parser.add_argument("--json", type=Path, required=True, help="the file of results")
    given = parser.parse_args()
    multiprocessing.set_forkserver_preload(HEAVY)  # a run's process is forked from one that has imported LAVIS (7 s)
    options = (f"datasets.scenes.splits.train.n={given.records}", *given.options)
    cells = {row.name: row.cell.with_options(*options) for row in ITEMS["rivals"].rows}
    (plain,) = (name for name, cell in cells.items() if set(PLAIN) <= set(cell.options))
    names = [name for name in cells if name in (plain, *(given.settings or cells))]
    with tempfile.TemporaryDirectory() as folder:
        mining = {name: in_child(mined, cells[name], folder) for name in names if cells[name].verdicts}
        runs: list[dict[str, Any]] = []
        machine = about()  # before the first round is written: the results' own file is no change of the code
        for number in range(given.rounds):
            runs += [{"setting": name, "round": number, **in_child(trained, cells[name], folder)} for name in names]
            found = compared(pd.DataFrame(runs), plain)  # written each round: one that is cut off loses itself alone
            results = {"mining_s": mining, "settings": found.to_dict("records"), "runs": runs}
            write_json(given.json, {**machine, **results})
    print(found.to_string(index=False))


def mined(cell: Cell, folder: str) -> float:
    """Seconds to mine the verdicts that a cell reads."""
    assert cell.verdicts
    arguments(str(ROOT / cell.verdicts.config), [*cell.verdicts.options, f"run.output_dir={folder}/mined"])
    began = time.perf_counter()
    mine.main()
    return time.perf_counter() - began


def trained(cell: Cell, folder: str) -> dict[str, float]:
    """The median step of the second epoch, and the last plan, in seconds."""
    planning: list[float] = []
    plan = GritPlanner.plan

    def timed(*given: Any, **more: Any) -> Any:
        began = time.perf_counter()
        planned = plan(*given, **more)
        planning.append(time.perf_counter() - began)
        return planned

    with tempfile.TemporaryDirectory(dir=folder) as output, mock.patch.object(GritPlanner, "plan", timed):
        more = [f"run.output_dir={output}", f"run.token_folder={folder}/tokens"]
        more += ["run.max_epoch=2", "run.test_splits=[]"]
        if cell.verdicts:
            more.append(f"run.con_d.path={folder}/mined/connections.parquet")
        arguments(str(ROOT / cell.config), [*cell.options, *more])
        train.run("", evaluate=False)
        steps = pd.read_json(f"{output}/steps.jsonl", lines=True)
    return {"step_s": float(steps.loc[steps["epoch"] == 1, "s_it"].median()), "plan_s": planning[-1]}


def compared(runs: pd.DataFrame, plain: str) -> pd.DataFrame:
    """A line a setting, in the order of the table."""
    baseline = runs[runs["setting"] == plain].set_index("round")["step_s"]
    runs = runs.assign(times_plain=runs["step_s"] / runs["round"].map(baseline))
    return runs.groupby("setting", sort=False)[["step_s", "times_plain", "plan_s"]].median().reset_index()


if __name__ == "__main__":
    main()
