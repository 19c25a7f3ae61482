"""The packaged Con-D on scenes that neither it nor its tower has seen: the bars that README names."""

from __future__ import annotations

import runpy
from argparse import Namespace
from pathlib import Path

import lavis_mafa
from lavis_mafa.mining_job import job as mine

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "projects" / "scenes" / "export_con_d.py"


def test_con_d_holds_its_bar() -> None:
    """Over the ten captions nearest to each of 500 images, own ones left out: the pairs that mining asks about."""
    found = runpy.run_path(str(SCRIPT))["quality"]()
    assert found["true"] > 100
    assert found["auc"] >= 0.985
    assert found["precision"] >= 0.9
    assert found["recall"] >= 0.75


def test_the_default_mining_run_is_right_in_90_of_100_at_recall_80(tmp_path: Path) -> None:
    lavis_mafa.register()
    config = ROOT / "projects" / "mafa" / "mine" / "mine_scenes.yaml"
    summary = mine.run(Namespace(cfg_path=str(config), options=[f"run.output_dir={tmp_path}"]))
    assert summary["against_truth"]["precision_at_recall_0.8"] >= 0.9
    assert summary["against_truth"]["coverage"] >= 0.7
    assert min(summary["recall_of_candidates"].values()) == 1.0
