"""projects/mafa/albef/pretrain_stage_scenes.yaml as a whole command, shortened: an ALBEF as student and as Con-D."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import torch

import lavis_mafa

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ROOT / "projects" / "mafa" / "albef" / "pretrain_stage_scenes.yaml"
SHORT = [
    "run.stop_epoch=2",
    "run.batch_size_train=16",
    "run.search_space=64",
    "run.warmup_steps=5",
    "run.k_test=4",
    "datasets.scenes.splits.train.n=130",
    "datasets.scenes.splits.val.n=16",
    "datasets.scenes.splits.test.n=16",
]


def save_con_d(path: Path) -> None:
    """A matching network that says yes to every pair: what it says does not matter here, that it is heard does."""
    lavis_mafa.register()
    from omegaconf import OmegaConf

    from lavis_mafa.models.albef.pretrain import MafaAlbef

    torch.manual_seed(0)
    model = MafaAlbef.from_config(OmegaConf.load(MafaAlbef.default_config_path("scenes")).model)
    with torch.no_grad():
        model.itm_head.bias.copy_(torch.tensor([0.0, 3.0]))
    torch.save({"model": model.state_dict()}, path)


def command(module: str, *options: str) -> str:
    arguments = [sys.executable, "-W", "ignore", "-m", module, "--cfg-path", str(CONFIG), "--options", *options]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(arguments, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_pretraining_and_evaluation(tmp_path: Path) -> None:
    save_con_d(tmp_path / "con_d.pth")
    con_d = (
        f"run.con_d={{arch: mafa_albef, model_type: scenes, load_finetuned: true, finetuned: {tmp_path / 'con_d.pth'}}}"
    )
    out = tmp_path / "out"
    options = [*SHORT, con_d, f"run.output_dir={out}"]
    command("lavis_mafa.train", *options)
    steps = [json.loads(line) for line in (out / "steps.jsonl").read_text().splitlines()]
    assert [(row["epoch"], row["step"]) for row in steps] == [(epoch, step) for epoch in range(2) for step in range(8)]
    assert {"loss_itc", "loss_itm", "loss_mlm"} <= set(steps[0])
    assert all(row["connections"] == row["candidates"] for row in steps)
    mean = [sum(row["loss_mlm"] for row in steps if row["epoch"] == epoch) / 8 for epoch in range(2)]
    assert mean[1] < mean[0]
    results = json.loads((out / "results.json").read_text())
    assert results["weights"]["visual_encoder"].startswith("own file package:assets/scenes_tower")
    assert {"itc", "itm"} <= set(results["retrieval"])
    checkpoint = sorted(out.glob("checkpoint_e*.pth"))[-1]
    again = [f"run.output_dir={tmp_path / 'eval'}", "model.load_pretrained=true", f"model.pretrained={checkpoint}"]
    command("lavis_mafa.evaluate", *SHORT, con_d, *again)
    evaluated = json.loads((tmp_path / "eval" / "results.json").read_text())
    assert evaluated["retrieval"] == results["retrieval"]
