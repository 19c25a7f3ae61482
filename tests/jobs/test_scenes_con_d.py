"""The packaged Con-D on scenes that neither it nor its tower has seen: the bar that README names."""

from __future__ import annotations

import runpy
from pathlib import Path

SCRIPT = Path(__file__).resolve().parents[2] / "projects" / "scenes" / "export_con_d.py"


def test_con_d_holds_its_bar() -> None:
    """Over the ten captions nearest to each of 500 images, own ones left out: the pairs that mining asks about."""
    found = runpy.run_path(str(SCRIPT))["quality"]()
    assert found["true"] > 100
    assert found["auc"] >= 0.98
    assert found["precision"] >= 0.9
    assert found["recall"] >= 0.7
