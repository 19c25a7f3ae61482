"""Training with a judge of captions: every caption is encoded before the first step, once for all starts."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np

from tests.jobs.commands import ROOT, environment, train

SCENES = "projects/mafa/blip2/pretrain_stage1_scenes.yaml"


def log_of(encoder: Path, folder: Path, tokens: Path) -> str:
    judge = f"run.con_d={{arch: captions, encoder: {encoder}}}"
    options = (judge, f"run.token_folder={tokens}", f"run.output_dir={folder}", "run.max_epoch=1", "run.test_splits=[]")
    small = (
        "datasets.scenes.splits.train.n=48",
        "run.batch_size_train=16",
        "run.search_space=32",
        "run.valid_splits=[]",
    )
    command = train(SCENES, *options, *small)
    done = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stderr


def test_captions_are_encoded_before_the_first_step_and_never_again(encoder_folder: Path, tmp_path: Path) -> None:
    first = log_of(encoder_folder, tmp_path / "one", tmp_path / "tokens")
    (file,) = (tmp_path / "tokens").glob("texts_*.npy")
    assert len(np.load(file)) > 48, "those of all records, of which a record has several"
    assert 0 < first.index("rows in " + str(file)) < first.index("epoch 0")
    assert "rows in " + str(file) not in log_of(encoder_folder, tmp_path / "two", tmp_path / "tokens")
