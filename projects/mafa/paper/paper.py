"""The paper in miniature: runs what an item lacks, then writes tables, plots and README from all that was run.

    bash run_scripts/mafa/paper.sh                      every item
    bash run_scripts/mafa/paper.sh table1 figure2 --seeds 5
    bash run_scripts/mafa/paper.sh all --plan           only says what would run, and for how long

A start goes on where the last one stopped: the row of a finished run serves as long as its settings, its data and the
number RESULTS (keys.py) are the same, a run that was cut off resumes from its last epoch.
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import pandas as pd
from cells import ROOT, Cell
from items import ITEMS
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from keys import RESULTS, Key
from measures import Item
from plots import draw
from rows import Rows, seconds_of
from tables import contrasts, contrasts_markdown, markdown, runs_frame, summary

from lavis_mafa.common.artifacts import atomic_write

CORES = os.cpu_count() or 1
EXPECTED = 100.0  # seconds on one of 2 cores, a run 85, a warm-up 230; where no run is there to tell from
Job = tuple[str, Cell]  # what it is called, what it is


def main() -> None:
    given = _arguments()
    root = given.smoke or ROOT
    out, report = given.out or root / "output/mafa/paper", given.report or root / "projects/mafa/paper"
    items, rows = _items(given.items), Rows(out, report / "rows.jsonl", given.smoke)
    jobs = all_jobs(items, given.options, given.seeds)
    lacking = rows.lacking({key: cell for key, (_, cell) in jobs.items()})
    missing = [job for key, job in jobs.items() if key in lacking]
    _print_plan(items, given, jobs, missing, rows)
    if given.plan:
        return
    os.environ["OMP_NUM_THREADS"] = str(max(1, CORES // given.jobs))  # read by the server that forks the runs
    failed = run_all(missing, rows, given.jobs)
    shown = list(ITEMS.values())
    runs = runs_frame(shown, rows, given.options, given.seeds)
    if len(runs):
        write_report(runs, shown, given.seeds, report, rows.seconds())
        print(f"tables and plots are in {report}")
    if failed:
        sys.exit(f"{failed} of {len(missing)} runs failed or had to be left out; start again to go on")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("items", nargs="*", default=["all"], metavar="ITEM", help=f"{', '.join(ITEMS)}, or all")
    parser.add_argument("--seeds", type=int, help="default: 5, or 3, as the plan says")
    parser.add_argument("--plan", action="store_true", help="print the plan and end")
    parser.add_argument("--jobs", type=int, default=CORES, help="runs at a time, which share the cores; default: cores")
    parser.add_argument("--out", type=Path, help="runs (some 2 GB for all); default: output/mafa/paper")
    parser.add_argument("--report", type=Path, help="rows, tables and plots; default: projects/mafa/paper")
    parser.add_argument("--smoke", type=Path, metavar="FOLDER", help="shorten every run, and write all below FOLDER")
    parser.add_argument(
        "--options", nargs="+", default=[], metavar="KEY=VALUE", help="over every run, the warm-ups too"
    )
    given = parser.parse_args()
    if given.smoke and (given.out or given.report):
        parser.error("--smoke FOLDER says where everything is written: leave out --out and --report")
    unknown = set(given.items) - {*ITEMS, "all"}
    if unknown or given.jobs < 1 or (given.seeds is not None and given.seeds < 1):
        parser.error(f"items are {', '.join(ITEMS)} or all, seeds and jobs 1 or more; got {' '.join(sys.argv[1:])}")
    return given


def _items(names: Sequence[str]) -> list[Item]:
    """The items of these names; of all, those whose data is there.

    Raises ValueError: an item that was named needs data that is not there.
    """
    chosen = list(ITEMS.values()) if "all" in names else [ITEMS[name] for name in names]
    lacking = [item for item in chosen if not _has_data(item)]
    if lacking and "all" not in names:
        raise ValueError(
            f"{lacking[0].name} needs {lacking[0].needs}: set it to the folder of the data, or leave it out"
        )
    for item in lacking:
        print(f"{item.name} is left out: {item.needs} names no folder of data")
    return [item for item in chosen if item not in lacking]


def _has_data(item: Item) -> bool:
    return not item.needs or (bool(folder := os.environ.get(item.needs)) and Path(folder).is_dir())


def all_jobs(items: Iterable[Item], options: Sequence[str], seeds: int | None) -> dict[Key, Job]:
    """Every run of the items, each once, those that others start from before them; seed by seed, so that early means
    are over whole rows."""
    jobs: dict[Key, Job] = {}
    for item in items:
        for seed in item.seeds_of(seeds):
            for row in item.rows:
                _add(jobs, row.cell.with_options(*options).with_seed(seed), f"{item.name}, seed {seed}: {row.name}")
    return jobs


def _add(jobs: dict[Key, Job], cell: Cell, name: str) -> None:
    for before in cell.before:
        _add(jobs, before, f"{name}, {'the run before' if before.command == 'train' else 'mining'}")
    jobs.setdefault(cell.key, (name, cell))


def _print_plan(
    items: list[Item], given: argparse.Namespace, jobs: Mapping[Key, Job], missing: list[Job], rows: Rows
) -> None:
    for item in items:
        print(f"{item.name:11}  {len(item.rows):2} rows x {len(item.seeds_of(given.seeds))} seeds  {item.title}")
    hours = expected_seconds(jobs, missing, rows) / given.jobs / 3600
    print(f"{len(missing)} of {len(jobs)} runs to do, {given.jobs} at a time, about {hours:.1f} hours", flush=True)


def expected_seconds(jobs: Mapping[Key, Job], missing: Iterable[Job], rows: Rows) -> float:
    """Of what is missing: the mean of the finished runs of the same config and as many epochs, older ones too."""
    took = defaultdict(list)
    for _, cell in jobs.values():
        if (row := rows.newest(cell)) and not math.isnan(seconds_of(row)):
            took[cell.kind].append(seconds_of(row))
    return sum(statistics.fmean(took.get(cell.kind, [EXPECTED])) for _, cell in missing)


def run_all(missing: list[Job], rows: Rows, at_once: int) -> int:
    """Run them, `at_once` at a time, those that others start from first; returns how many failed, those included that
    had to start from one that did."""
    waiting = {cell.key: (name, cell) for name, cell in missing}
    running: dict[Future[dict[str, Any]], Job] = {}
    failed = 0
    with ThreadPoolExecutor(at_once) as pool:
        while waiting or running:
            unfinished = {*waiting, *(cell.key for _, cell in running.values())}
            ready = [job for job in waiting.values() if not unfinished & {cell.key for cell in job[1].before}]
            for job in ready[: at_once - len(running)]:
                running[pool.submit(rows.run, job[1])] = waiting.pop(job[1].key)
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                name, _ = running.pop(future)
                done = len(missing) - len(waiting) - len(running)
                failed += not _ended_well(f"[{done}/{len(missing)}] {name}", future)
    return failed


def _ended_well(name: str, future: Future[dict[str, Any]]) -> bool:
    """Whether the run ended well."""
    try:
        print(f"{name}: {future.result()['seconds']:.0f} s", flush=True)
    except (RuntimeError, OSError, KeyError) as error:
        print(f"{name}: {error}", file=sys.stderr, flush=True)
        return False
    return True


def write_report(runs: pd.DataFrame, items: list[Item], seeds: int | None, folder: Path, seconds: list[float]) -> None:
    """runs.parquet, and README.md of them and of notes/ITEM.md; of an item whose runs are whole (by default all its
    seeds) a table and a plot. `seconds` of all runs."""
    shown: list[dict[str, object]] = []
    missing: dict[str, str] = {}
    for item in items:
        own = runs[runs["item"] == item.name]
        found, whole = summary(runs, item), len(item.rows) * len(item.seeds_of(seeds))
        if len(own) < whole:
            missing[item.title] = f"{len(own)} of {whole} runs were done (`paper.sh {item.name}`)"
            continue
        tables = [markdown(found, item), contrasts_markdown(contrasts(runs, item)) if item.contrasts else ""]
        table, notes = "\n\n".join(filter(None, tables)), folder / "notes" / f"{item.name}.md"
        _write(folder / f"{item.name}.md", f"{table}\n")
        draw(found, item, folder / f"{item.name}.png")
        text = notes.read_text().strip() if notes.exists() else ""
        about = {"title": item.title, "name": item.name, "paper": item.paper}
        shown.append({**about, "table": table, "notes": text, "older": int((own["results"] < RESULTS).sum())})
    with atomic_write(folder / "runs.parquet") as file:
        runs.to_parquet(file, index=False)
    _write(folder / "README.md", _readme(runs, shown, missing, seconds))


def _readme(runs: pd.DataFrame, items: list[dict[str, object]], missing: dict[str, str], took: list[float]) -> str:
    once = runs.drop_duplicates(list(Key._fields))
    loader = FileSystemLoader(Path(__file__).parent)
    template = Environment(loader=loader, undefined=StrictUndefined, keep_trailing_newline=True).get_template(
        "README.md.j2"
    )
    machines = "; ".join(sorted(set(once["machine"] + ", torch " + once["torch"])))
    hours, seconds = f"{sum(took) / 3600:.1f}", f"{once['seconds'].median():.0f}"
    about = {"runs": len(took), "machines": machines, "hours": hours, "seconds": seconds}
    return template.render(**about, items=items, missing=missing)


def _write(path: Path, text: str) -> None:
    with atomic_write(path) as file:
        file.write(text.encode())


if __name__ == "__main__":
    try:
        main()
    except ValueError as error:
        sys.exit(f"error: {error}")
