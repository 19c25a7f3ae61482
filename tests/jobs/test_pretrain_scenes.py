"""The main job, run as a user runs it, shortened: what it writes. Runs that are killed: test_faults.py."""

from __future__ import annotations

import json
import subprocess
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file

import lavis_mafa
from tests.jobs.commands import ROOT, environment, rows, run, train

SCENES = "projects/mafa/blip2/pretrain_stage1_scenes.yaml"
SMALL = [
    "datasets.scenes.splits.train.n=100",
    "datasets.scenes.splits.val.n=32",
    "datasets.scenes.splits.test.n=32",
    "run.batch_size_train=16",
    "run.max_epoch=3",
    "run.search_space=40",
    "run.k_test=2",
    "run.warmup_steps=2",
]


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unbroken")
    run(*train(SCENES, *SMALL, f"run.output_dir={folder}"))
    return folder


def test_the_script_ends_with_a_table_and_pictures(tmp_path: Path) -> None:
    """Started in a folder of the user's, whose config and --smoke are relative to it."""
    (tmp_path / "mine.yaml").write_text((ROOT / SCENES).read_text())
    script = str(ROOT / "run_scripts" / "mafa" / "pretrain_blip2.sh")
    printed = run("bash", script, "--cfg-path", "mine.yaml", "--smoke", "here", cwd=tmp_path)
    folder = tmp_path / "here" / "output" / "mafa" / "blip2_scenes"
    results = json.loads((folder / "results.json").read_text())
    for relevance in ("annotation", "truth"):
        for ranking in ("itc", "itm"):
            assert 0 <= results["retrieval"][ranking][relevance]["image"]["r1"] <= 100
    assert results["connections"]["pairs_scored"] > 0
    assert results["plan"]["sampling"] == "grit"
    assert results["plan"]["distinct_images_per_batch"] == 16
    assert results["config"]["run"]["max_epoch"] == 2
    assert "torch" in results["versions"]
    assert "R@10" in printed and "false negatives per batch" in printed
    assert (folder / "curves.png").read_bytes()[:4] == b"\x89PNG"
    model, vis, _ = lavis_mafa.load(folder)
    assert model.Qformer.config.hidden_size == 128 and vis["eval"](Image.new("RGB", (48, 48))).shape == (3, 48, 48)
    assert (folder / "gallery" / "index.html").exists()


def test_every_record_is_trained_on_in_one_of_two_epochs(unbroken: Path) -> None:
    plans = [np.load(unbroken / f"plan_{epoch}.npz")["order"] for epoch in range(3)]
    for plan in plans:
        assert sorted(plan) == list(range(100))
    for before, after in pairwise(plans):
        assert set(before[:96]) | set(after[:96]) == set(range(100))


def test_no_two_steps_are_the_same(unbroken: Path) -> None:
    found = [(row["epoch"], row["step"]) for row in rows(unbroken / "steps.jsonl")]
    assert found == [(epoch, step) for epoch in range(3) for step in range(6)]


def test_without_con_d_no_connections_are_reported(tmp_path: Path) -> None:
    plain = ["model.mafa.preset=none", "run.con_d=null", "run.sampling=random", "run.max_epoch=1"]
    printed = run(*train(SCENES, *SMALL, *plain, f"run.output_dir={tmp_path}"))
    results = json.loads((tmp_path / "results.json").read_text())
    assert "connections" not in results and "put to Con-D" not in printed
    assert not (tmp_path / "gallery").exists() and "gallery" not in printed
    assert results["plan"]["sampling"] == "random"


def test_grit_may_wait_and_negatives_be_drawn(tmp_path: Path) -> None:
    """run.random_epochs; and Con-D judges drawn pairs as it judges the hardest."""
    options = ("run.random_epochs=2", "model.mafa.negatives=multinomial", "run.test_splits=[]")
    run(*train(SCENES, *SMALL, *options, f"run.output_dir={tmp_path}"))
    assert [row["sampling"] for row in rows(tmp_path / "epochs.jsonl")] == ["random", "random", "grit"]
    steps = rows(tmp_path / "steps.jsonl")
    assert all(row["scored"] + row["from_store"] > 0 and row["spares"] <= row["ambiguous"] for row in steps)


def test_the_checkpoint_is_fine_tuned_for_retrieval_with_its_tower(unbroken: Path, tmp_path: Path) -> None:
    start, out = unbroken / "model.safetensors", tmp_path / "tuned"
    options = (*SMALL[:6], "run.max_epoch=1", f"model.pretrained={start}", f"run.output_dir={out}")
    config = "projects/mafa/blip2/finetune_retrieval_scenes.yaml"
    run(*train(config, *options))
    assert not any(key.startswith("visual_encoder.") for key in load_file(start))  # its tower has a file of its own
    before, after = load_file(ROOT / "lavis_mafa/assets/scenes_tower.safetensors"), load_file(out / "model.safetensors")
    moved = {key: (after[f"visual_encoder.{key}"] - before[key]).abs().max().item() for key in before}
    assert moved and min(moved.values()) > 0
    assert "itm" in json.loads((out / "results.json").read_text())["retrieval"]
    frozen = train(config, *options, "model.freeze_vit=true", f"run.output_dir={tmp_path / 'frozen'}")
    refused = subprocess.run(frozen, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=600)
    assert refused.returncode != 0
    assert "no vision tower is trained; set model.freeze_vit: false" in refused.stderr
