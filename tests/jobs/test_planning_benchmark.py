"""The benchmark of planning, at a size of seconds: both ways chain alike."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from tests.jobs.commands import run


def test_the_official_chain_is_ours(tmp_path: Path) -> None:
    found, sizes = tmp_path / "planning.json", ("--records", "200", "--dim", "16", "--spaces", "50", "101")
    run(sys.executable, "projects/benchmarks/planning.py", *sizes, "--repeats", "1", "--json", str(found))
    rows = json.loads(found.read_text())["spaces"]
    assert [(row["search_space"], row["equal_chains"]) for row in rows] == [(50, 1.0), (101, 1.0)]
    assert all(row["official_us_a_record"] > 0 and row["planner_us_a_record"] > 0 for row in rows)
