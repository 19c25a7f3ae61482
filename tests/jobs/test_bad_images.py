"""A run over a data set with a torn image: it stops and names it, or replaces it and names it in a file."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lavis_mafa.core.plan import Plan
from lavis_mafa.data.scenes.dataset import scenes_table

ROOT = Path(__file__).resolve().parents[2]
SCENES = ROOT / "projects" / "mafa" / "blip2" / "pretrain_stage1_scenes.yaml"
RUN = (
    "{{run: {{batch_size_train: 8, max_epoch: 1, warmup_steps: 1, test_splits: [], output_dir: {0}/out, device: cpu}}, "
)
MODEL = "model: {{arch: mafa_blip2, model_type: scenes, mafa: {{action: keep}}}}, "
VIEW = "{{name: blip_image_eval, image_size: 48, mean: 0.5, std: 0.5}}"
DATA = "datasets: {{image_text: {{images: {0}/images, annotations: {{train: {0}/train.json}}, vis_processor: {{train: "


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    table, open_scene, _ = scenes_table(20, seed=5)
    (tmp_path / "images").mkdir()
    rows = []
    for record in range(table.n_records):
        open_scene(record).save(tmp_path / "images" / f"{record}.png")
        rows += [{"image": f"{record}.png", "caption": table.caption(row)} for row in table.caption_rows(record)]
    (tmp_path / "train.json").write_text(json.dumps(rows))
    torn = tmp_path / "images" / "7.png"
    torn.write_bytes(torn.read_bytes()[:200])
    (tmp_path / "run.yaml").write_text((RUN + MODEL + DATA + VIEW + "}}}}}}}}").format(tmp_path))
    return tmp_path


def start(folder: Path, module: str, *options: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "LAVIS_MAFA_DATA": str(folder)}
    command = [sys.executable, "-W", "ignore", "-m", f"lavis_mafa.{module}"]
    command += ["--cfg-path", str(folder / "run.yaml"), "--options", "run.num_workers=0", *options]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, cwd=folder)


def test_a_torn_image_stops_the_run_or_is_replaced(folder: Path) -> None:
    done = start(folder, "train", f"run.output_dir={folder}/raised", "run.max_epoch=2")  # in one of two epochs it comes
    assert done.returncode == 1 and "7.png cannot be read" in done.stderr
    done = start(folder, "train", f"run.output_dir={folder}/workers", "run.max_epoch=2", "run.num_workers=2")
    assert done.returncode == 1 and "Traceback" not in done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert "7.png cannot be read" in line
    written = "${oc.env:LAVIS_MAFA_DATA}/images"
    options = "datasets.image_text.on_bad_image=replace", "run.max_epoch=3", f"datasets.image_text.images={written}"
    done = start(folder, "train", *options)
    assert done.returncode == 0, done.stderr
    results = json.loads((folder / "out" / "results.json").read_text())
    for kept in (results, torch.load(max((folder / "out").glob("checkpoint_e*.pth")), weights_only=True)):
        assert kept["config"]["datasets"]["image_text"]["images"] == written  # as it was written, for every machine
    assert (folder / "out" / "bad_images_rank0.txt").read_text() == "7.png\n"
    epochs = [json.loads(line) for line in (folder / "out" / "epochs.jsonl").read_text().splitlines()]
    assert epochs[-1]["bad_images"] == 1 and [epoch["steps"] for epoch in epochs] == [2, 2, 2]  # no batch has shrunk
    plans = [Plan.load(folder / "out" / f"plan_{epoch}.npz").order_N for epoch in range(3)]
    met = next(epoch for epoch in range(3) if 7 in plans[epoch][:16])  # those after it leave it out
    assert [7 in plan for plan in plans] == [epoch <= met for epoch in range(3)]
    assert [epoch.get("left_out") for epoch in epochs] == [None if 7 in plan else 1 for plan in plans]
    assert met < 2 and sorted(plans[2]) == [record for record in range(20) if record != 7]


def test_the_check_leaves_it_out(folder: Path) -> None:
    command = [sys.executable, "-m", "lavis_mafa.data", "check", "--cfg-path", "run.yaml", "--output", "checked"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, cwd=folder)
    assert done.returncode == 1 and "7.png cannot be read" in done.stdout
    cleaned = folder / "checked" / "train_clean.jsonl"
    done = start(folder, "train", f"datasets.image_text.annotations.train={cleaned}")
    assert done.returncode == 0, done.stderr
