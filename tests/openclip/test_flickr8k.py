"""A real training run: a small model on real images and captions, through the launcher, to R@1."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

from lavis_mafa.core.plan import Plan

ROOT = Path(__file__).resolve().parents[2]
CON_D = ["--con-d", "arch=mafa_albef", "model_type=scenes_con_d"]  # what it says of photographs does not matter here


def test_rows_of_flickr8k(shared_data, tmp_path):
    managed = ["mafa", *CON_D] if find_spec("lavis") else ["grit"]
    words = ["--images", 40, "--epochs", 3, "--batch-size", 20, "--out", tmp_path, "--rows", "clip", *managed]
    environment = {**os.environ, "LAVIS_MAFA_DATA": str(shared_data), "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-W", "ignore", "projects/openclip/flickr8k.py", *map(str, words)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-3000:]
    results = json.loads((tmp_path / "results.json").read_text())
    assert list(results) == ["clip", managed[0]]
    for row in results.values():
        assert 0 <= row["img_r1"] <= row["img_r5"] <= row["img_r10"] <= 100
    plans = [Plan.load(tmp_path / managed[0] / "mafa" / f"plan_{epoch}.npz") for epoch in range(3)]
    assert [plan.sampling for plan in plans] == ["random"] + ["grit"] * 2
    assert all(plan.stats["distinct_images"] == 20 for plan in plans)  # siblings stay apart
    losses = [line for line in done.stderr.splitlines() + done.stdout.splitlines() if "Contrastive_loss" in line]
    assert losses
