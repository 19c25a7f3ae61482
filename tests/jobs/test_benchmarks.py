"""The benchmarks of cost, at a size of seconds: they run, and what they compare is the same work."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.jobs.commands import run

SCENES = "datasets.scenes.splits.train.n"


def measured(name: str, folder: Path, *options: str) -> dict[str, Any]:
    path = folder / f"{name}.json"
    run(sys.executable, f"projects/benchmarks/{name}.py", *options, "--json", str(path))
    found: dict[str, Any] = json.loads(path.read_text())
    assert found["command"].startswith(f"python projects/benchmarks/{name}.py ") and found["hardware"]["cores"]
    assert {"torch", "python"} <= set(found["versions"]) and "commit" in found
    return found


def test_the_official_chain_is_ours(tmp_path: Path) -> None:
    sizes = ("--records", "200", "--dim", "16", "--spaces", "50", "101", "--repeats", "1")
    rows = measured("planning", tmp_path, *sizes)["spaces"]
    assert [(row["search_space"], row["equal_chains"]) for row in rows] == [(50, 1.0), (101, 1.0)]
    assert all(row["official_us_a_record"] > 0 and row["planner_us_a_record"] > 0 for row in rows)


def test_con_d_has_its_share_of_an_epoch(tmp_path: Path) -> None:
    small = (f"{SCENES}=48", "datasets.scenes.splits.val.n=4", "run.batch_size_train=16", "run.warmup_steps=2")
    sizes = ("--records", "48", "--epochs", "2", "--shares", "1.0", "0.5", "--ways", "shared tower", "offline")
    found = measured("ecm", tmp_path, *sizes, "--options", *small)
    assert [(cell["share"], cell["con_d"]) for cell in found["cells"]] == [
        (1.0, "shared tower"),
        (1.0, "offline"),
        (0.5, "shared tower"),
        (0.5, "offline"),
    ]
    shared, offline, *_ = (cell["epochs"] for cell in found["cells"])
    assert len(shared) == len(offline) == 2 and found["mining"]["pairs"] > 0
    assert all(0 < row["con_d_share"] < 1 and 0 <= row["store_hit_rate"] <= 1 for row in shared)
    assert all(0 < row["con_d_share"] < 1 for row in offline)
    assert shared[0]["pairs_scored"] > 0 and offline[0]["pairs_scored"] > 0


def test_mining_is_counted_size_by_size(tmp_path: Path) -> None:
    rows = measured("mining", tmp_path, "--records", "20", "40")["sizes"]
    assert [row["records"] for row in rows] == [20, 40] and 0 < rows[0]["pairs"] < rows[1]["pairs"]
    assert all(row["pairs_a_second_scoring"] > row["pairs_a_second_in_all"] > 0 for row in rows)


def test_mining_memory_is_measured_size_by_size(tmp_path: Path) -> None:
    rows = measured("mining_memory", tmp_path, "--images", "200", "400", "--captions-an-image", "2", "--dim", "16")[
        "sizes"
    ]
    assert [(row["images"], row["captions"]) for row in rows] == [(200, 400), (400, 800)]
    assert all(row["candidates"] >= row["captions"] and row["peak"] > row["anonymous_before"] > 0 for row in rows)


def test_the_whole_set_is_planned_size_by_size(tmp_path: Path) -> None:
    sizes = ("--records", "6000", "20001", "30000", "--dim", "16", "--exact", "500", "--repeats", "2")
    found = measured("planning_all", tmp_path, *sizes)
    assert [row["records"] for row in found["all"]] == [6000, 20_001, 30_000]
    assert all(len(row["all_us_a_record"]) == 2 for row in found["all"])
    assert found["fit"]["exponent"] and (tmp_path / "planning_all.png").exists()


def test_settings_are_held_against_plain_blip2(tmp_path: Path) -> None:
    names = ("MAFA", "Con-D's verdicts mined offline")
    small = ("datasets.scenes.splits.val.n=4", "run.batch_size_train=16", "run.warmup_steps=2", "run.search_space=32")
    found = measured("rivals", tmp_path, "--records", "48", "--settings", *names, "--options", *small)
    mafa, plain, offline = found["settings"]
    assert (mafa["setting"], offline["setting"]) == names and plain["times_plain"] == 1
    assert all(one["quartiles"][0] <= one["times_plain"] <= one["quartiles"][1] for one in found["settings"])
    assert [len(run["step_s"]) for run in found["runs"].values()] == [2, 2, 2]  # 3 steps an epoch, the first plans
    assert all(min(run["step_s"]) > 0 and min(run["plan_s"]) > 0 for run in found["runs"].values())
    assert list(found["mining_s"]) == [offline["setting"]] and found["mining_s"][offline["setting"]] > 0


def test_verdicts_in_bf16_are_held_against_float32(tmp_path: Path) -> None:
    found = measured("con_d_precision", tmp_path, "--batches", "1", "--batch", "8")
    assert found["pairs"] == 16 and 0 <= found["verdicts_changed"] < 0.2 and 0 < found["largest_difference"] < 0.1


def test_the_gpu_script_runs_at_a_tiny_size(tmp_path: Path) -> None:
    path = tmp_path / "gpu.json"
    options = ("--device", "cpu", "--tiny", "--json", str(path))
    run("bash", "projects/benchmarks/gpu.sh", *options, PYTHON=sys.executable)
    parts = json.loads(path.read_text())["parts"]
    assert list(parts) == ["mining", "itc", "tower_of_con_d", "qformer", "memory", "planner", "search"]
    assert parts["planner"]["same_chain"] == 1 and "torch_s" in parts["search"] and "skipped" in parts["memory"]
    assert all(
        part[f"{name}_ms"] > 0 for part in (parts["tower_of_con_d"], parts["qformer"]) for name in ("fp32", "bf16")
    )


def test_a_step_is_timed_beside_busy_processes(tmp_path: Path) -> None:
    rows = measured("busy", tmp_path, "--busy", "0", "1", "--threads", "1", "--batch", "4", "--steps", "1")["rows"]
    assert [(row["wait"] == "passive", row["busy"]) for row in rows] == [(False, 0), (False, 1), (True, 0), (True, 1)]
    assert all(row["step_s"] > 0 for row in rows)


def count(next_turn: Callable[[], None], file: Path, name: str, turns: int) -> str:
    """Write the name each turn; fails after the last one where the name says so."""
    for turn in range(turns):
        if turn:
            next_turn()
        with file.open("a") as out:
            out.write(name)
    if name == "x":
        raise ValueError("x fails")
    return name * turns


def test_runs_take_turns_and_one_that_has_ended_is_passed_over(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "projects" / "benchmarks"))
    from turns import in_turns

    file = tmp_path / "turns"
    assert in_turns(count, [(file, "a", 2), (file, "b", 1), (file, "c", 4)]) == ["aa", "b", "cccc"]
    assert file.read_text() == "abcaccc"
    with pytest.raises(ValueError, match="x fails"):
        in_turns(count, [(file, "a", 3), (file, "x", 1)])  # and does not wait for a turn that never comes


@pytest.mark.parametrize("model", ["blip2", "albef"])
def test_steps_of_lavis_and_ours_are_timed_on_the_same_weights(shared_data: Path, tmp_path: Path, model: str) -> None:
    sizes = ("--models", model, "--batch", "4", "--repeats", "1")
    (found,) = measured("step", tmp_path, *sizes)["steps"].values()
    assert all(found[f"{name}_s"] > 0 for name in ("lavis", "ours", "con_d"))
    assert found["times_as_fast_as_lavis"]["lavis"] == 1
