"""The benchmark of long runs, at a size of seconds: what it writes down."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from tests.jobs.commands import run

TINY = {"records": 1000, "epochs": 3, "dim": 16, "batch": 8, "search-space": 100, "save-every-steps": 50}


def test_a_long_run_in_small(tmp_path: Path) -> None:
    options = [text for name, value in TINY.items() for text in (f"--{name}", str(value))]
    found = tmp_path / "long_run.json"
    run(sys.executable, "projects/benchmarks/long_run.py", *options, "--folder", str(tmp_path), "--json", str(found))
    results = json.loads(found.read_text())
    assert 12 <= results["bytes_a_pair"] <= 16
    assert 5000 < results["pairs"] <= 2 * 1000 * 3
    assert [epoch["epoch"] for epoch in results["epochs"]] == [0, 1, 2]
    assert results["epochs"][-1]["pairs"] == results["pairs"]
    assert results["checkpoints"] == ["checkpoint_e0002_s0000100.pth", "checkpoint_e0003_s0000000.pth"]
    assert results["config"]["search_space"] == 100 and results["hardware"]["cores"] >= 1
    assert results["peak_mb"] >= results["rss_at_start_mb"] > 0
    assert list(tmp_path.iterdir()) == [found], "its stores are removed"
