"""When scores of judged pairs are stored, and a run that stores none."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from omegaconf import OmegaConf

import lavis_mafa
from tests.jobs.commands import ROOT, environment, rows, train

SCENES = "projects/mafa/blip2/pretrain_stage1_scenes.yaml"


@pytest.mark.parametrize(
    ("run", "records", "keeps"),
    [
        ({"search_space": "all"}, 10**8, True),
        ({"search_space": 4800}, 213_000, True),  # COCO and Visual Genome: 2.3 %
        ({"search_space": 4800}, 5_000_000, False),  # 4M-noisy: 0.1 %
        ({"search_space": 4800, "sampling": "random"}, 113_000, False),  # the space is the batch
        ({"search_space": 640, "sampling": "random"}, 1_920, True),  # the paper in miniature
        ({"search_space": 4800, "store_scores": True}, 5_000_000, True),
        ({"search_space": "all", "store_scores": False}, 100, False),
    ],
)
def test_scores_are_stored_where_pairs_come_back(run: dict[str, object], records: int, keeps: bool) -> None:
    lavis_mafa.register()
    from lavis_mafa.runners.grit_state import keeps_scores

    assert keeps_scores(OmegaConf.create({"batch_size_train": 64, **run}), records) is keeps


def test_a_run_without_stored_scores_judges_every_pair_and_says_why(tmp_path: Path) -> None:
    command = [*train(SCENES, "run.store_scores=false"), "--smoke", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "scores of judged pairs are not stored" in done.stderr
    folder = tmp_path / "output" / "mafa" / "blip2_scenes"
    assert not (folder / "connections").exists() and not (folder / "gallery").exists()
    steps = rows(folder / "steps.jsonl")
    assert sum(step["scored"] for step in steps) > 0 and not any(step["from_store"] for step in steps)
    assert json.loads((folder / "results.json").read_text())["connections"]["pairs_scored"] > 0
