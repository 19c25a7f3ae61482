"""The main job under torchrun, two processes on a CPU (gloo)."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lavis_mafa.core.embeddings import EmbeddingStore
from lavis_mafa.core.plan import Plan
from tests.jobs.commands import ROOT, environment, rows, run, train
from tests.ranks import train_on_ranks

SCENES = "projects/mafa/blip2/pretrain_stage1_scenes.yaml"
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
ODD = ["datasets.scenes.splits.val.n=17", "datasets.scenes.splits.test.n=33"]  # images, which two ranks share


def test_two_processes_plan_train_and_evaluate_together(tmp_path: Path) -> None:
    command = train(SCENES, "run.save_every_steps=1", *ODD)
    run(*TORCHRUN, *command[1:], "--smoke", str(tmp_path))
    folder = tmp_path / "output" / "mafa" / "blip2_scenes"
    plan = Plan.load(folder / "plan_1.npz")
    assert sorted(plan.order_N) == list(range(96))
    assert (plan.world, plan.batch_size, plan.sampling) == (2, 16, "grit")
    assert [(row["epoch"], row["step"]) for row in rows(folder / "steps.jsonl")] == [
        (e, s) for e in (0, 1) for s in (0, 1, 2)
    ]
    every_rank_followed_the_plan(folder, plan)
    results = json.loads((folder / "results.json").read_text())
    assert results["connections"]["pairs_scored"] > 0

    weights = ["model.load_pretrained=true", f"model.pretrained={folder / 'model.safetensors'}"]
    evaluate = train(SCENES, *ODD, *weights, f"run.output_dir={tmp_path / 'alone'}")
    evaluate[2] = "lavis_mafa.evaluate"
    run(*evaluate, "--smoke", str(tmp_path))
    assert json.loads((tmp_path / "alone" / "results.json").read_text())["retrieval"] == results["retrieval"]

    alone = subprocess.run(
        [*command, "--smoke", str(tmp_path)], cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=300
    )
    assert alone.returncode != 0
    assert "world_size: the checkpoint has 2, this run 1" in alone.stderr


def every_rank_followed_the_plan(folder: Path, plan: Plan) -> None:
    """Each wrote the embeddings of its own batches of the one plan, in their order."""
    shards = EmbeddingStore(folder / "embeddings", 96, 64, plan.fingerprint, 0, 2).gather(plan.epoch).shards
    for rank, shard in enumerate(shards):
        np.testing.assert_array_equal(shard["index"], plan.batches(rank).ravel())


# ---- mixed data sets

MIXED = """
model: {arch: mafa_blip2, model_type: scenes}
datasets:
  coco_caption:
    vis_processor: &vision
      train: {name: blip_image_eval, image_size: 48, mean: 0.5, std: 0.5}
      eval: {name: blip_image_eval, image_size: 48, mean: 0.5, std: 0.5}
    text_processor: &text
      train: {name: blip_caption}
      eval: {name: blip_caption}
  vg_caption: {vis_processor: *vision, text_processor: *text}
run:
  device: cpu
  max_epoch: 2
  batch_size_train: 2
  warmup_steps: 1
  search_space: all
  con_d: {arch: mafa_albef, model_type: scenes_con_d}
  test_splits: []
"""
COCO, VG = 9, 8  # images


def lavis_cache(folder: Path) -> Path:
    """COCO, whose images all have one caption, so that two of them in a batch give no candidate; and Visual Genome."""
    coco = [{"image": f"{at}.jpg", "image_id": f"coco_{at}", "caption": "a red circle"} for at in range(COCO)]
    vg = [{"image": f"{at}.jpg", "image_id": at, "caption": f"{at} blue squares"} for at in range(VG)]
    splits = {f"coco/annotations/coco_karpathy_{split}.json": coco for split in ("train", "val", "test")}
    for name, annotation in {**splits, "vg/annotations/vg_caption.json": vg}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(json.dumps(annotation))
    for name, count in (("coco", COCO), ("vg", VG)):
        (folder / name / "images").mkdir()
        for at in range(count):
            Image.new("RGB", (48, 48), (25 * at, 90, 40)).save(folder / name / "images" / f"{at}.jpg")
    return folder


def test_mixed_data_sets_go_on_where_a_rank_finds_no_pair(tmp_path: Path) -> None:
    config, out = tmp_path / "mixed.yaml", tmp_path / "run"
    config.write_text(MIXED)
    cache = lavis_cache(tmp_path / "cache")
    arguments = ["--cfg-path", str(config), "--options", f"run.output_dir={out}"]
    train_on_ranks(2, *arguments, LAVIS_MAFA_CACHE=str(cache))
    pairless = np.array([[(batch < COCO).all(1) for batch in batches(out, epoch)] for epoch in (0, 1)])
    assert pairless.shape == (2, 2, 4)  # epoch, rank, step
    assert (pairless[:, 0] != pairless[:, 1]).any(), "in some step one rank alone had no candidate"
    assert [row["candidates"] == 0 for row in rows(out / "steps.jsonl")] == pairless[:, 0].ravel().tolist()


def batches(folder: Path, epoch: int) -> list[np.ndarray]:
    plan = Plan.load(folder / f"plan_{epoch}.npz")
    return [plan.batches(rank) for rank in range(plan.world)]


# ---- a rank that dies


@pytest.mark.parametrize(("how", "message"), [("killed", "Signal 9 (SIGKILL)"), ("raises", "this GPU is gone")])
def test_a_rank_that_dies_ends_the_run_with_its_name(how: str, message: str, tmp_path: Path) -> None:
    command = ["-m", "tests.jobs.dying_rank", "1", how, *train(SCENES, *ODD)[3:], "--smoke", str(tmp_path)]
    done = subprocess.run(TORCHRUN + command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=600)
    assert done.returncode != 0
    cause = done.stderr.partition("Root Cause")[2]
    assert "rank      : 1" in cause and message in cause, done.stderr[-3000:]
