"""The main job under torchrun, two processes on a CPU (gloo)."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np

from tests.jobs.commands import ROOT, environment, rows, run, train

SCENES = "projects/mafa/blip2/pretrain_stage1_scenes.yaml"
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


def test_two_processes_plan_and_train_together(tmp_path: Path) -> None:
    command = train(SCENES, "run.save_every_steps=1")
    run(*TORCHRUN, *command[1:], LAVIS_MAFA_SMOKE=str(tmp_path))
    folder = tmp_path / "output" / "mafa" / "blip2_scenes"
    with np.load(folder / "plan_1.npz") as plan:
        about = json.loads(str(plan["about"]))
        assert sorted(plan["order"]) == list(range(96))
    assert (about["world"], about["batch_size"], about["sampling"]) == (2, 16, "grit")
    assert [(row["epoch"], row["step"]) for row in rows(folder / "steps.jsonl")] == [
        (e, s) for e in (0, 1) for s in (0, 1, 2)
    ]
    assert json.loads((folder / "results.json").read_text())["connections"]["pairs_scored"] > 0

    alone = subprocess.run(
        command, cwd=ROOT, env=environment(LAVIS_MAFA_SMOKE=str(tmp_path)), capture_output=True, text=True, timeout=300
    )
    assert alone.returncode != 0
    assert "world_size: the checkpoint has 2, this run 1" in alone.stderr
