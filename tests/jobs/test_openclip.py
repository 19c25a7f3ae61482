"""An OpenCLIP model through LAVIS' registry: pre-training with Con-D or a bi-encoder, evaluation, mining."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import open_clip
import pandas as pd
import pytest
import torch
from PIL import Image

import lavis_mafa.openclip  # noqa: F401  open_clip knows mafa-scenes
from lavis_mafa.core.connections import ConnectionStore
from tests.jobs.commands import rows, run, train

CONFIG = "projects/mafa/openclip/pretrain_scenes.yaml"
SHORT = [
    "run.max_epoch=2",
    "run.batch_size_train=16",
    "run.search_space=64",
    "run.warmup_steps=5",
    "model.mafa.alpha_from_epoch=1",
    "datasets.scenes.splits.train.n=130",
    "datasets.scenes.splits.val.n=16",
    "datasets.scenes.splits.test.n=16",
]


def weights(folder: Path) -> Path:
    torch.manual_seed(0)
    torch.save(open_clip.create_model("mafa-scenes").state_dict(), folder / "clip.pt")
    return folder / "clip.pt"


def classes(folder: Path) -> Path:
    for name, colour in (("red", (255, 0, 0)), ("green", (0, 255, 0))):
        (folder / name).mkdir(parents=True)
        Image.new("RGB", (48, 48), colour).save(folder / name / "0.png")
    return folder


def written(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "results.json").read_text())


def test_pretraining_evaluation_and_zero_shot(tmp_path: Path) -> None:
    out = tmp_path / "out"
    zero_shot = f"run.zero_shot={{images: {classes(tmp_path / 'classes')}, templates: simple}}"
    printed = run(*train(CONFIG, *SHORT, zero_shot, f"run.output_dir={out}"))
    steps = rows(out / "steps.jsonl")
    assert [(row["epoch"], row["step"]) for row in steps] == [(epoch, step) for epoch in range(2) for step in range(8)]
    assert {name for name in steps[0] if name.startswith("loss")} == {"loss", "loss_itc"}
    assert sum(row["connections"] for row in steps) > 0
    fingerprint = json.loads((out / "connections" / "store.json").read_text())["fingerprint"]
    assert len(ConnectionStore(out / "connections", fingerprint).to_frame()) == sum(row["scored"] for row in steps)
    assert [row["sampling"] for row in rows(out / "epochs.jsonl")] == ["random", "grit"]
    results = written(out)
    assert set(results["retrieval"]) == {"itc", "at_r"}  # no matching head, so nothing is re-ranked
    assert results["zero_shot"]["classes"] == 2
    assert "Zero-shot classification" in printed
    ours = f"model.pretrained={out / 'model.safetensors'}"
    again = train(CONFIG, *SHORT, zero_shot, f"run.output_dir={tmp_path / 'eval'}", "model.load_pretrained=true", ours)
    run(*(word.replace("lavis_mafa.train", "lavis_mafa.evaluate") for word in again))
    evaluated = written(tmp_path / "eval")
    assert evaluated["retrieval"]["itc"] == results["retrieval"]["itc"]
    assert evaluated["zero_shot"] == results["zero_shot"]


def test_a_bi_encoder_takes_con_ds_place(tmp_path: Path) -> None:
    judge = f"run.con_d={{arch: open_clip, vit_model: 'open_clip:mafa-scenes/{weights(tmp_path)}'}}"
    run(
        *train(CONFIG, *SHORT, "run.max_epoch=1", judge, "model.mafa.action=drop", f"run.output_dir={tmp_path / 'out'}")
    )
    steps = rows(tmp_path / "out" / "steps.jsonl")
    assert all(row["scored"] + row["from_store"] > 0 for row in steps)


def test_it_embeds_for_mining(tmp_path: Path) -> None:
    options = ["model.arch=mafa_openclip", "model.model_type=scenes"]
    options += [f"model.vit_model='open_clip:mafa-scenes/{weights(tmp_path)}'", f"run.output_dir={tmp_path / 'out'}"]
    options += ["run.con_d={arch: mafa_albef, model_type: scenes_con_d}", "run.range_max=6"]
    options += ["datasets.scenes.splits.train.n=48", "datasets.scenes.splits.train.match_share=0.02"]
    config = "projects/mafa/mine/mine_scenes.yaml"
    run(sys.executable, "-m", "lavis_mafa.mine", "--cfg-path", config, "--options", *options)
    found = pd.read_parquet(tmp_path / "out" / "connections.parquet")
    assert len(found)
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["images"] == 48


@pytest.mark.parametrize(
    ("option", "message"),
    [("run.k_test=4", "no matching head"), ("run.con_d={arch: open_clip, vit: x}", "did you mean run.con_d.vit_model")],
)
def test_what_a_dual_encoder_cannot_do_is_reported_first(option: str, message: str, tmp_path: Path) -> None:
    import subprocess

    from tests.jobs.commands import ROOT, environment

    command = train(CONFIG, *SHORT, option, f"run.output_dir={tmp_path}")
    done = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=300)
    assert done.returncode == 1
    assert message in done.stderr
