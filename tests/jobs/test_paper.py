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
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from omegaconf import OmegaConf
from PIL import Image

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


Grid = tuple[Path, set[str], str]


def command(folder: Path, *arguments: str, options: tuple[str, ...] = (), more: str = "") -> list[str]:
    folders = ("--out", str(folder / "out"), "--report", str(folder / "report"))
    return [sys.executable, "-c", COMMAND.format(more=more), "tiny", *arguments, *folders, "--options", *TINY, *options]


def lines_of(folder: Path) -> list[str]:
    path = folder / "report" / "rows.jsonl"
    return path.read_text().splitlines() if path.exists() else []


def kill_after_two_runs(folder: Path) -> set[str]:
    """Start, and kill everything once two rows stand; returns these."""
    grid = subprocess.Popen(command(folder), cwd=ROOT, env=environment(), start_new_session=True)
    began = time.monotonic()
    while len(found := lines_of(folder)) < 2:
        assert grid.poll() is None and time.monotonic() - began < 600
        time.sleep(0.1)
    os.killpg(grid.pid, signal.SIGKILL)
    grid.wait()
    return set(found)


@pytest.fixture(scope="module")
def grid(tmp_path_factory: pytest.TempPathFactory) -> Grid:
    """Its folder, the rows of a first start, and what a second one printed."""
    folder = tmp_path_factory.mktemp("paper")
    killed = kill_after_two_runs(folder)
    return folder, killed, run(*command(folder))


def test_a_second_start_goes_on_and_a_third_runs_nothing(grid: Grid) -> None:
    folder, killed, printed = grid
    to_do = re.search(r"(\d) of 7 runs to do", printed)
    assert to_do and 1 <= int(to_do[1]) <= 5
    lines = lines_of(folder)
    assert len(lines) == 7 and killed <= set(lines)
    assert "0 of 7 runs to do" in run(*command(folder, "--plan"))


def test_a_row_says_what_was_run_and_on_what(grid: Grid) -> None:
    rows = [json.loads(line) for line in lines_of(grid[0])]
    keys = [(row["settings"], row["data"], row["results"]) for row in rows]
    assert keys == sorted(set(keys)) and {(data, results) for _, data, results in keys} == {("none", 1)}
    for row in rows:
        assert (ROOT / row["config"]).is_file() and row["commit"]
        assert {"torch", "lavis_mafa", "machine"} <= set(row["versions"])
        assert row["found"] and row["seconds"] > 0
        assert "run.seed=" in row["options"] or row["config"].endswith("mine_scenes.yaml")


def test_a_changed_setting_runs_again(grid: Grid) -> None:
    assert "2 of 7 runs to do" in run(*command(grid[0], "--plan", more='"run.weight_decay=0.1",'))


def test_an_edit_that_changes_no_figure_runs_nothing(grid: Grid, tmp_path: Path) -> None:
    """A comment more in every file of the package and of the paper; runs write elsewhere."""
    for folder in ("lavis_mafa", "projects/mafa"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for path in (path for suffix in ("py", "yaml") for path in tmp_path.rglob(f"*.{suffix}")):
        path.write_text(f"{path.read_text()}\n# a comment\n")
    written = (f"run.output_dir={tmp_path}", f"run.token_folder={tmp_path}/tokens", "run.resume_ckpt_path=null")
    plan = command(grid[0], "--plan", options=written)
    done = subprocess.run(plan, cwd=tmp_path, env=environment(PYTHONPATH=""), capture_output=True, text=True)
    assert "0 of 7 runs to do" in done.stdout, done.stderr


def test_raised_results_run_again_and_tables_keep_the_row(grid: Grid, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(PAPER))
    import keys
    from rows import Rows
    from starts import offline

    folder, *_ = grid
    rows, cell = Rows(folder / "out", folder / "report" / "rows.jsonl"), offline().with_options(*TINY).with_seed(2)
    found = rows.of(cell)
    assert found and found["found"]["plan.sampling"] == "grit" and "run.seed=2" in found["options"]
    monkeypatch.setattr(keys, "RESULTS", keys.RESULTS + 1)
    assert rows.of(cell) is None and rows.newest(cell) == found
    assert cell.key in rows.lacking({cell.key: cell})


def test_a_row_without_its_run_serves_and_only_what_follows_needs_the_run(grid: Grid, tmp_path: Path) -> None:
    """As on a fresh clone: rows are kept, runs are not."""
    shutil.copytree(grid[0] / "report", tmp_path / "report")
    assert "0 of 7 runs to do" in run(*command(tmp_path, "--plan"))
    kept = [line for line in lines_of(tmp_path) if not ("run.seed=2" in line and "arch: file" in line)]
    assert len(kept) == 6
    (tmp_path / "report" / "rows.jsonl").write_text("".join(f"{line}\n" for line in kept))
    assert "3 of 7 runs to do" in run(*command(tmp_path, "--plan"))  # itself, its warm-up, and mining


def test_mined_verdicts_are_con_d_for_every_seed(grid: Grid) -> None:
    """One mining run, over the scenes that are trained on; its file is asked, and no network."""
    results = [json.loads(path.read_text()) for path in grid[0].glob("out/runs/*/results.json")]
    of_file = [one for one in results if (one["config"]["run"]["con_d"] or {}).get("arch") == "file"]
    (mined,) = grid[0].glob("out/runs/*/connections.parquet")
    assert [one["config"]["run"]["con_d"]["path"] for one in of_file] == [str(mined)] * 2
    assert all(one["connections"]["pairs_scored"] for one in of_file)
    assert json.loads((mined.parent / "summary.json").read_text())["images"] == 48


def test_rows_of_a_seed_start_from_the_same_weights(grid: Grid) -> None:
    results = [json.loads(path.read_text()) for path in grid[0].glob("out/runs/*/results.json")]
    sources = [one["weights"]["Qformer"] for one in results if one["config"]["run"]["seed"] == 1]
    assert len(sources) == 3 and sources.count("initialised") == 1 and len(set(sources)) == 2


def test_the_interval_is_that_of_paired_differences(grid: Grid) -> None:
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


def test_a_run_that_was_cut_off_tells_no_time(grid: Grid) -> None:
    rows = [json.loads(line) for line in lines_of(grid[0])]
    runs = pd.read_parquet(grid[0] / "report" / "runs.parquet").set_index("settings")["seconds"]
    assert {row["resumed"] for row in rows} == {True, False}
    for row in rows:
        if (run := row["settings"]) in runs:
            assert math.isnan(runs[run]) if row["resumed"] else runs[run] == row["seconds"]


def test_an_item_is_shown_when_its_runs_are_whole(grid: Grid, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.syspath_prepend(str(PAPER))
    from items import table7
    from paper import write_report

    item = replace(table7(), name="tiny", rows=table7().rows[:1], contrasts=())
    runs = pd.read_parquet(grid[0] / "report" / "runs.parquet")
    write_report(runs[runs["row"] == item.rows[0].name], [item], 2, tmp_path, [1.0])
    assert "## Table 7" in (tmp_path / "README.md").read_text()
    write_report(runs[runs["row"] == item.rows[0].name], [item], 3, tmp_path, [1.0])
    shown = (tmp_path / "README.md").read_text()
    assert "## Table 7" not in shown and "2 of 3 runs were done (`paper.sh tiny`)" in shown


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
    """It takes the options of its data, and one Con-D serves all seeds."""
    monkeypatch.syspath_prepend(str(PAPER))
    from flickr8k import flickr8k

    start, cell = (row.cell for row in flickr8k().rows[:2])
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


# ---- keys and rows; nothing is run here


def on_files(folder: Path, *options: str) -> Any:
    """A cell on one photograph with a caption, in a data set of that folder; weights and judgments lie there, too."""
    from cells import Cell

    (folder / "photographs").mkdir(parents=True)
    for split in ("train", "test"):
        Image.new("RGB", (8, 8), "red").save(folder / "photographs" / f"{split}.png")
        rows = [{"image": f"photographs/{split}.png", "caption": "a red square"}]
        (folder / f"{split}.json").write_text(json.dumps(rows))
    for name in ("judged.json", "tower.safetensors"):
        (folder / name).write_text("[]")
    data = {"images": str(folder), "annotations": {split: f"{folder}/{split}.json" for split in ("train", "test")}}
    model = {"arch": "mafa_blip2", "vit_weights": f"{folder}/tower.safetensors", "vocab": "bert-base-uncased"}
    run = {"judged_pairs": f"{folder}/judged.json"}
    (folder / "run.yaml").write_text(json.dumps({"model": model, "datasets": {"image_text": data}, "run": run}))
    return Cell(str(folder / "run.yaml"), ("run.seed=1", *options))


@pytest.fixture
def stored(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> tuple[Any, dict[str, Any]]:
    """The rows of a finished cell on files, which lie in tmp_path/here, and its row."""
    monkeypatch.syspath_prepend(str(PAPER))
    from rows import Rows

    rows = Rows(tmp_path / "out", tmp_path / "rows.jsonl")
    row = {**on_files(tmp_path / "here").key._asdict(), "found": {}, "seconds": 1.0}
    rows.file.add(row)
    return rows, row


def test_a_row_serves_wherever_its_data_lies_and_its_run_writes(
    stored: tuple[Any, dict[str, Any]], tmp_path: Path
) -> None:
    rows, row = stored
    elsewhere = ("run.output_dir=/elsewhere", "run.token_folder=/tokens", "run.cache_folder=/cache")
    there = on_files(tmp_path / "there", *elsewhere)
    (tmp_path / "there" / "notes.txt").write_text("of no split")
    assert rows.of(there) == row and rows.lacking({there.key: there}) == set()


@pytest.mark.parametrize(
    "file",
    ["train.json", "test.json", "photographs/train.png", "photographs/test.png", "judged.json", "tower.safetensors"],
)
def test_changed_data_has_no_row(stored: tuple[Any, dict[str, Any]], tmp_path: Path, file: str) -> None:
    """Not even in the tables."""
    rows, _ = stored
    changed = on_files(tmp_path / "there")
    path = tmp_path / "there" / file
    path.write_bytes(path.read_bytes() + b"\n")
    assert rows.of(changed) is None and rows.newest(changed) is None


def test_other_settings_have_no_row(stored: tuple[Any, dict[str, Any]], tmp_path: Path) -> None:
    rows, _ = stored
    for number, option in enumerate(("run.seed=2", "model.vocab=bert-large", "model.vit_weights=package:other")):
        other = on_files(tmp_path / str(number), option)
        assert rows.of(other) is None and rows.newest(other) is None


@pytest.mark.parametrize("missing", ["train.json", "photographs/test.png", "judged.json"])
def test_where_the_data_is_not_tables_have_the_row_and_nothing_runs(
    stored: tuple[Any, dict[str, Any]], tmp_path: Path, missing: str
) -> None:
    rows, row = stored
    cell = on_files(tmp_path / "there")
    (tmp_path / "there" / missing).unlink()
    assert rows.of(cell) is None and rows.newest(cell) == row
    with pytest.raises(RuntimeError, match=f"no file at .*{missing}"):
        rows.run(cell)


def test_a_run_has_the_data_of_the_runs_before_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.syspath_prepend(str(PAPER))
    from cells import Cell
    from starts import BLIP2

    here, there = (Cell(BLIP2, after=on_files(tmp_path / name)) for name in ("here", "there"))
    assert here.key == there.key != Cell(BLIP2).key
    other = on_files(tmp_path / "other")
    (tmp_path / "other" / "judged.json").write_text("[1]")
    assert Cell(BLIP2, after=other).key.settings == here.key.settings
    assert Cell(BLIP2, after=other).key.data != here.key.data


def test_rows_that_end_at_the_same_time_all_stand(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.syspath_prepend(str(PAPER))
    from rows import RowFile

    def add(number: int) -> None:
        row = {"settings": f"{number:02}", "data": "none", "results": 1, "found": {"ä": number}}
        RowFile(tmp_path / "rows.jsonl").add(row)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(add, reversed(range(40))))
    lines = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert [line["settings"] for line in lines] == [f"{number:02}" for number in range(40)]
    assert [path.name for path in tmp_path.iterdir()] == ["rows.jsonl"]


def test_every_run_of_the_tables_has_its_row(shared_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By its settings and data; RESULTS may have been raised since."""
    monkeypatch.setenv("LAVIS_MAFA_DATA", str(shared_data))
    monkeypatch.syspath_prepend(str(PAPER))
    from items import ITEMS
    from paper import all_jobs
    from rows import Rows

    jobs = all_jobs([item for item in ITEMS.values() if (PAPER / f"{item.name}.md").exists()], [], None)
    rows = Rows(PAPER, PAPER / "rows.jsonl")
    assert len(jobs) > 400 and not [name for name, cell in jobs.values() if rows.newest(cell) is None]


def test_no_place_is_a_setting(items: Any) -> None:
    """All that says where something lies is left out of the keys of the paper's runs."""
    import keys

    for cell in all_cells(items).values():
        for name, value in keys.leaves(cell.given()):
            looks_so = "oc.env" in str(value) or str(value).startswith(("/", "~", "output/"))
            assert keys._is_place(name, value) or not looks_so, f"{name}: {value}"


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
    from lavis_mafa.common.run_schema import MineRun, TrainRun
    from lavis_mafa.config.load import load_config
    from lavis_mafa.core.settings import MafaSettings

    for number, cell in enumerate(all_cells(items).values()):
        path = tmp_path / f"{number}.yaml"
        OmegaConf.save(OmegaConf.create(cell.given()), path)
        schema = TrainRun if cell.command == "train" else MineRun
        config = load_config(Namespace(cfg_path=str(path), options=["run.device=cpu"]), schema).config
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
    shown = capsys.readouterr()
    assert "[4/4]" in shown.out + shown.err and "last: no luck" in shown.err


def test_hours_are_reported_from_runs_of_the_same_kind(monkeypatch: pytest.MonkeyPatch) -> None:
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
            about = dict.fromkeys(("commit", "options"), "")
            return {**cell.key._asdict(), **about, "seconds": 1, "versions": {"machine": "", "torch": ""}, "found": {}}

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
