"""The miniature paper (projects/mafa/paper): the configs of all its cells, and an item of two tiny rows and two seeds,
killed and started again."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from argparse import Namespace
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from omegaconf import OmegaConf

import lavis_mafa
from lavis_mafa.data.records import RecordTable
from tests.jobs.commands import ROOT, environment, run

TINY = (
    "datasets.scenes.splits.train.n=48",
    "datasets.scenes.splits.val.n=4",
    "datasets.scenes.splits.test.n=24",
    "run.batch_size_train=16",
    "run.max_epoch=2",
    "run.k_test=2",
    "run.warmup_steps=2",
)
PAPER = ROOT / "projects" / "mafa" / "paper"
# the command with an item of its own: BLIP-2 in random batches, and with GRIT and verdicts mined offline, once for all
# seeds; both after one warm-up a seed
COMMAND = """
import sys
from dataclasses import replace
sys.path.insert(0, "projects/mafa/paper")
import items
import starts
base = items.table7().rows[0]
cell = starts.offline()
grit = items.Row({{"batches": "GRIT"}}, replace(cell, options=(*cell.options, {more})), base.name)
both = (grit.name, base.name)
items.ITEMS = {{"tiny": replace(items.table7(), name="tiny", rows=(base, grit), seeds=2, contrasts=(both,))}}
import paper
paper.main()
"""


def command(folder: Path, *arguments: str, more: str = "") -> list[str]:
    folders = ("--out", str(folder / "out"), "--report", str(folder / "report"))
    return [sys.executable, "-c", COMMAND.format(more=more), "tiny", *arguments, *folders, "--options", *TINY]


def kill_after_two_runs(folder: Path) -> dict[Path, int]:
    """Start, and kill everything once two rows stand; returns their times of writing."""
    grid = subprocess.Popen(command(folder), cwd=ROOT, env=environment(), start_new_session=True)
    began = time.monotonic()
    while len(found := list(folder.glob("report/rows/*.json"))) < 2:
        assert grid.poll() is None and time.monotonic() - began < 600
        time.sleep(0.1)
    os.killpg(grid.pid, signal.SIGKILL)
    grid.wait()
    return {path: path.stat().st_mtime_ns for path in found}


@pytest.fixture(scope="module")
def grid(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[Path, int], str]:
    folder = tmp_path_factory.mktemp("paper")
    killed = kill_after_two_runs(folder)
    return folder, killed, run(*command(folder))


def test_a_second_start_goes_on_and_a_third_runs_nothing(grid: tuple[Path, dict[Path, int], str]) -> None:
    folder, killed, printed = grid
    to_do = re.search(r"(\d) of 7 runs to do", printed)
    assert to_do and 1 <= int(to_do[1]) <= 5
    assert all(path.stat().st_mtime_ns == written for path, written in killed.items())
    assert "0 of 7 runs to do" in run(*command(folder, "--plan"))


def test_what_changed_runs_again(grid: tuple[Path, dict[Path, int], str], monkeypatch: pytest.MonkeyPatch) -> None:
    folder, *_ = grid
    assert "2 of 7 runs to do" in run(*command(folder, "--plan", more='"run.weight_decay=0.1",'))
    monkeypatch.syspath_prepend(str(PAPER))
    from cells import Rows
    from starts import offline

    rows, cell = Rows(folder / "out", folder / "report" / "rows"), offline().with_options(*TINY).with_seed(2)
    found = rows.of(cell)
    assert found and found["found"]["plan.sampling"] == "grit" and "run.seed=2" in found["options"]
    rows.code = "other"
    assert rows.of(cell) is None and rows.newest(cell) == found
    with pytest.raises(ValueError, match="changed while the runs went on"):
        rows._check_code()
    rows.any_code = True
    rows._check_code()
    assert rows.of(cell) == found


def test_a_row_without_its_run_serves_and_only_what_follows_needs_the_run(
    grid: tuple[Path, dict[Path, int], str], tmp_path: Path
) -> None:
    """As on a fresh clone: rows are kept, runs are not."""
    shutil.copytree(grid[0] / "report", tmp_path / "report")
    assert "0 of 7 runs to do" in run(*command(tmp_path, "--plan"))
    for path in (tmp_path / "report" / "rows").iterdir():
        if "run.seed=2" in (said := json.loads(path.read_text())["options"]) and "arch: file" in said:
            path.unlink()
    assert "3 of 7 runs to do" in run(*command(tmp_path, "--plan"))  # itself, its warm-up, and mining


def test_mined_verdicts_are_con_d_for_every_seed(grid: tuple[Path, dict[Path, int], str]) -> None:
    """One mining run, over the scenes that are trained on; its file is asked, and no network."""
    results = [json.loads(path.read_text()) for path in grid[0].glob("out/runs/*/results.json")]
    of_file = [one for one in results if (one["config"]["run"]["con_d"] or {}).get("arch") == "file"]
    (mined,) = grid[0].glob("out/runs/*/connections.parquet")
    assert [one["config"]["run"]["con_d"]["path"] for one in of_file] == [str(mined)] * 2
    assert all(one["connections"]["pairs_scored"] for one in of_file)
    assert json.loads((mined.parent / "summary.json").read_text())["images"] == 48


def test_rows_of_a_seed_start_from_the_same_weights(grid: tuple[Path, dict[Path, int], str]) -> None:
    results = [json.loads(path.read_text()) for path in grid[0].glob("out/runs/*/results.json")]
    sources = [one["weights"]["Qformer"] for one in results if one["config"]["run"]["seed"] == 1]
    assert len(sources) == 3 and sources.count("initialised") == 1 and len(set(sources)) == 2


def test_the_interval_is_that_of_paired_differences(grid: tuple[Path, dict[Path, int], str]) -> None:
    """With two seeds, t is 12.7062 and the deviation of the mean half the distance of the two differences."""
    report = grid[0] / "report"
    runs = pd.read_parquet(report / "runs.parquet")
    ways = [f"retrieval.itc.truth.{way}.r1" for way in ("image", "text")]
    values = runs.assign(figure=runs[ways].mean(axis=1)).pivot(index="seed", columns="row", values="figure")
    base = "random batches, drawn negatives (BLIP-2)"
    one, other = values["GRIT"] - values[base]
    difference = f"{(one + other) / 2:+.2f} ± {12.7062 * abs(one - other) / 2:.2f}"
    difference = f"**{difference}**" if abs(one + other) > 12.7062 * abs(one - other) else difference
    table = (report / "tiny.md").read_text()
    assert f"| GRIT | 2 | {values['GRIT'].mean():.2f} ({difference})" in table
    assert f"| {base} | 2 | {values[base].mean():.2f} |" in table
    assert f"| GRIT − {base} | {difference} |" in table
    assert table.strip() in (report / "README.md").read_text() and (report / "tiny.png").read_bytes()[:4] == b"\x89PNG"


def test_a_run_that_was_cut_off_tells_no_time(grid: tuple[Path, dict[Path, int], str]) -> None:
    rows = [json.loads(path.read_text()) for path in grid[0].glob("report/rows/*.json")]
    runs = pd.read_parquet(grid[0] / "report" / "runs.parquet").set_index("key")["seconds"]
    assert {row["resumed"] for row in rows} == {True, False}
    for row in rows:
        if row["key"] in runs:
            assert math.isnan(runs[row["key"]]) if row["resumed"] else runs[row["key"]] == row["seconds"]


def test_an_item_is_shown_when_its_runs_are_whole(
    grid: tuple[Path, dict[Path, int], str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.syspath_prepend(str(PAPER))
    from items import table7
    from paper import write_report

    item = replace(table7(), name="tiny", rows=table7().rows[:1], contrasts=())
    runs = pd.read_parquet(grid[0] / "report" / "runs.parquet")
    write_report(runs[runs["row"] == item.rows[0].name], [item], 2, tmp_path, [1.0])
    assert "## Table 7" in (tmp_path / "README.md").read_text()
    write_report(runs[runs["row"] == item.rows[0].name], [item], 3, tmp_path, [1.0])
    said = (tmp_path / "README.md").read_text()
    assert "## Table 7" not in said and "2 of 3 runs were done (`paper.sh tiny`)" in said


# ---- photographs, whose siblings are hidden


def test_a_run_on_photographs_counts_siblings(shared_data: Path, tmp_path: Path) -> None:
    """16 photographs are 80 pairs; siblings are negatives in training, and counted as false ones."""
    options = [
        *("datasets.photographs.max_rows=16", "run.test_splits=[]", "run.judged_pairs=null", "run.max_epoch=2"),
        *("run.con_d=null", "model.mafa.action=keep", "model.load_pretrained=false", "run.search_space=all"),
        *("run.batch_size_train=16", "run.warmup_steps=2", "run.token_folder=null", f"run.output_dir={tmp_path}"),
    ]
    script, config = str(PAPER / "photographs.py"), str(PAPER / "flickr8k.yaml")
    run(sys.executable, script, "--cfg-path", config, "--options", *options)
    epochs = [json.loads(line) for line in (tmp_path / "epochs.jsonl").read_text().splitlines()]
    assert [epoch["sampling"] for epoch in epochs] == ["random", "grit"]
    steps = [json.loads(line) for line in (tmp_path / "steps.jsonl").read_text().splitlines()]
    assert len(steps) == 2 * 5
    # 16 of 80: a pair has 4 siblings among 79 others, and 15 of these are in its batch
    assert epochs[0]["false_negatives_per_batch"] == pytest.approx(16 * 15 * 4 / 79, rel=0.5)
    assert all(epoch["itm_false_negative_rate"] > 0 for epoch in epochs)


def test_siblings_and_no_others_match(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(PAPER))
    lavis_mafa.register()
    from photographs import are_siblings, caption_records

    rows = pa.table({"image": ["a.jpg", "b.jpg"], "caption": [["one", "two"], ["three", "two"]]})
    table = RecordTable.from_rows(rows, dataset="any")
    pairs = caption_records(table, "any")
    assert [pairs.image(record) for record in range(4)] == ["a.jpg", "a.jpg", "b.jpg", "b.jpg"]
    assert [pairs.caption(row) for row in range(4)] == ["one", "two", "three", "two"]
    assert len(set(pairs.image_id)) == 4 and pairs.offsets.tolist() == [0, 1, 2, 3, 4]
    everyone = np.arange(4)
    found = are_siblings(table.image_id[table.record_of_caption], everyone[:, None], everyone[None, :])
    assert (found == np.kron(np.eye(2), np.ones((2, 2)))).all()


def test_a_cell_on_photographs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its key follows the data set's own files, it takes the options of its data, and one Con-D serves all seeds."""
    monkeypatch.syspath_prepend(str(PAPER))
    import cells
    from flickr8k import flickr8k

    start, cell = (row.cell for row in flickr8k().rows[:2])
    key = cell.key
    monkeypatch.setattr(cells, "OWN_DATA", ("photographs.yaml",))
    assert cell.key != key
    given = cell.with_options("datasets.scenes.seed=3", "datasets.photographs.max_rows=4", "run.weight_decay=0.1")
    assert given.options[len(cell.options) :] == ("datasets.photographs.max_rows=4", "run.weight_decay=0.1")
    assert cell.with_seed(2).after == start == start.with_seed(2) and cell.with_seed(2) != cell.with_seed(3)


def test_photographs_are_left_out_where_they_are_not(tmp_path: Path) -> None:
    without = {key: value for key, value in environment().items() if key != "LAVIS_MAFA_DATA"}
    command = [sys.executable, "projects/mafa/paper/paper.py", "--plan", "--report", str(tmp_path)]
    plan = subprocess.run(command, cwd=ROOT, env=without, capture_output=True, text=True, check=True)
    assert (
        "flickr8k is left out: LAVIS_MAFA_DATA names no folder of data" in plan.stdout
        and "siblings among the hardest" not in plan.stdout
    )
    named = subprocess.run([*command, "flickr8k"], cwd=ROOT, env=without, capture_output=True, text=True)
    assert named.returncode and "flickr8k needs LAVIS_MAFA_DATA" in named.stderr


# ---- nothing is run here


@pytest.fixture(scope="module")
def items() -> Iterator[Any]:
    """ITEMS of projects/mafa/paper/items.py."""
    lavis_mafa.register()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LAVIS_MAFA_DATA", "/data")
        patch.syspath_prepend(str(PAPER))
        import photographs  # noqa: F401  registers the data set
        from items import ITEMS

        yield ITEMS


def all_cells(items: Any) -> dict[str, Any]:
    """Every run of the items and those before them, under its key."""
    found, left = {}, [row.cell for item in items.values() for row in item.rows]
    while left:
        cell = left.pop()
        found[cell.key] = cell
        left += cell.before
    return found


def test_rows_of_an_item_differ_and_their_baselines_are_rows(items: Any) -> None:
    for item in items.values():
        names = [row.name for row in item.rows]
        assert len({row.cell.key for row in item.rows}) == len(set(names)) == len(names), item.name
        assert {row.against for row in item.rows} <= {"", *names}
        assert {name for pair in item.contrasts for name in pair} <= set(names)
        assert all(row.labels.keys() == item.rows[0].labels.keys() for row in item.rows)


def test_a_replication_shares_no_run_with_what_it_is_to_confirm(items: Any) -> None:
    from paper import all_jobs

    new = set(all_jobs([items["replication"]], [], None))
    seen = set(all_jobs([item for name, item in items.items() if name != "replication"], [], None))
    assert len(new) == 20 and not new & seen


def test_every_cell_is_a_config_that_can_run(items: Any, tmp_path: Path) -> None:
    """Its keys and values are allowed, and it names a Con-D where, and only where, one has a say."""
    from lavis_mafa.config import load_config
    from lavis_mafa.core.settings import MafaSettings

    for number, cell in enumerate(all_cells(items).values()):
        path = tmp_path / f"{number}.yaml"
        OmegaConf.save(OmegaConf.create(cell.given()), path)
        defaults = "run.yaml" if cell.command == "train" else "mine.yaml"
        config = load_config(Namespace(cfg_path=str(path), options=["run.device=cpu"]), defaults).config
        if "mafa" in config.model and cell.command == "train":
            asks = MafaSettings.from_dict(config.model.mafa).asks_scorer
            assert asks == bool(config.run.con_d), cell.options
            assert bool(cell.verdicts) == (asks and config.run.con_d.arch == "file"), cell.options


def test_runs_go_at_once_and_none_before_the_one_it_starts_from(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(PAPER))
    from cells import Cell
    from paper import run_all
    from starts import BLIP2

    warm_up, alone = Cell(BLIP2, ("run.seed=1",)), Cell(BLIP2, ("run.seed=2",))
    after, last = Cell(BLIP2, ("run.seed=3",), after=warm_up), Cell(BLIP2, ("run.seed=4",), after=warm_up)
    both_run = threading.Barrier(2)
    finished: list[str] = []

    class Timed:
        def run(self, cell: Cell) -> dict[str, float]:
            assert all(before.key in finished for before in cell.before)
            both_run.wait(timeout=20)  # the warm-up beside `alone`, then both that follow the warm-up
            finished.append(cell.key)
            if cell == last:
                raise RuntimeError("no luck")
            return {"seconds": 1.0}

    missing = [("warm-up", warm_up), ("after", after), ("last", last), ("alone", alone)]
    assert run_all(missing, Timed(), at_once=2) == 1
    assert set(finished) == {cell.key for _, cell in missing}
    said = capsys.readouterr()
    assert "[4/4]" in said.out + said.err and "last: no luck" in said.err


def test_hours_are_told_from_runs_of_the_same_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(PAPER))
    from cells import Cell
    from paper import EXPECTED, expected_seconds
    from starts import BLIP2

    finished, cut_off, like_it = (Cell(BLIP2, (f"run.seed={seed}",)) for seed in (1, 2, 3))
    longer = Cell(BLIP2, ("run.max_epoch=12",))
    rows = {finished.key: {"seconds": 50.0}, cut_off.key: {"seconds": 1.0, "resumed": True}}

    class Finished:
        def newest(self, cell: Cell) -> dict[str, Any] | None:
            return rows.get(cell.key)

    jobs = {cell.key: ("", cell) for cell in (finished, cut_off, like_it, longer)}
    assert expected_seconds(jobs, [("", like_it), ("", longer)], Finished()) == 50 + EXPECTED


def test_what_a_setting_costs_is_a_column_without_interval(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.syspath_prepend(str(PAPER))
    from items import rivals
    from measures import COSTS
    from tables import contrasts, markdown, runs_frame, summary

    class Finished:
        def newest(self, cell: Any) -> dict[str, Any]:
            about = dict.fromkeys(("code", "commit", "options"), "")
            return {"key": cell.key, **about, "seconds": 1, "versions": {"machine": "", "torch": ""}, "found": {}}

    mafa, plain, *_ = (row.name for row in rivals().rows)
    settings = [{"setting": mafa, "times_plain": 1.5, "plan_s": 0.2}, {"setting": plain, "times_plain": 1, "plan_s": 0}]
    (tmp_path / "rivals.json").write_text(json.dumps({"settings": settings}))
    item = replace(rivals(), costs=str(tmp_path / "rivals.json"), contrasts=((mafa, plain),))
    runs = runs_frame([item], Finished(), [], None)
    table = markdown(summary(runs, item), item)
    assert [measure.name for measure in COSTS] == table.splitlines()[0].strip("| ").split(" | ")[2:]
    assert f"| {mafa} | 3 | 1.50 | 0.20 |" in table and f"| {plain} | 3 | 1.00 | 0.00 |" in table
    assert contrasts(runs, item).empty
    without = replace(item, costs=str(tmp_path / "none.json"))
    assert summary(runs_frame([without], Finished(), [], None), without).empty
