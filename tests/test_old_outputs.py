"""What version 0.1.0 wrote is read, or refused by one sentence that names the version and what to do instead.

The headers below are those of 0.1.0, byte for byte.
"""

from __future__ import annotations

import json
import re
from argparse import Namespace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import safetensors.torch
import torch
from omegaconf import OmegaConf

import lavis_mafa
from lavis_mafa.common.formats import FORMATS, OldOutputError, check_format, header
from lavis_mafa.core.connections import ConnectionStore
from lavis_mafa.core.embeddings import HEADER_BYTES, EmbeddingStore
from lavis_mafa.core.plan import Plan

BY_010 = r"was written by lavis_mafa 0\.1\.0, whose {} format {} does not read: .*{}"


def refused(kind: str, remedy: str) -> str:
    """A pattern of the whole message: one line, one sentence, the path first."""
    return rf"^[^\n]* {BY_010.format(kind, re.escape(lavis_mafa.__version__), remedy)}[^\n]*$"


def test_the_version_is_that_of_the_package() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+", lavis_mafa.__version__) and lavis_mafa.__version__ != "0.1.0"


def test_a_plan_is_refused(tmp_path: Path) -> None:
    about = {"format": "lavis_mafa plan 1", "n_records": 5, "stats": {"distinct_images": 2.0}, "epoch": 1}
    about |= {"batch_size": 2, "world": 1, "sampling": "grit", "search_space": "all", "fingerprint": "f"}
    np.savez(tmp_path / "plan_1.npz", order=np.arange(5), about=np.array(json.dumps(about)))
    with pytest.raises(ValueError, match=refused("plan", "empty folder")):
        Plan.load(tmp_path / "plan_1.npz", epoch=1, fingerprint="f")


def test_embeddings_are_refused(tmp_path: Path) -> None:
    about = {"format": "lavis_mafa embeddings 1", "fingerprint": "f", "n_records": 3, "dim": 2, "world": 1}
    row = np.dtype([("index", "<i8"), ("image", "<f2", (2,)), ("text", "<f2", (2,))])
    rows = np.array([(0, (1, 0), (0, 1)), (2, (0, 1), (1, 0))], row)
    content = json.dumps({**about, "rank": 0, "epoch": 0}).encode().ljust(HEADER_BYTES) + rows.tobytes()
    (tmp_path / "embeddings_even_rank0.bin").write_bytes(content)
    store = EmbeddingStore(tmp_path, 3, 2, "f")
    with pytest.raises(ValueError, match=refused("embeddings", "empty folder")):
        store.gather(0)
    with pytest.raises(ValueError, match=refused("embeddings", "empty folder")):
        store.rollback({"epoch": 0, "rows": 1})
    assert (tmp_path / "embeddings_even_rank0.bin").read_bytes() == content


def test_scores_are_refused(tmp_path: Path) -> None:
    (tmp_path / "store.json").write_text('{"format": 1, "fingerprint": "f"}')
    words = np.concatenate([np.array([1 << 32], "<i8").view("<u4"), np.array([0.9], "<f4").view("<u4")])
    np.save(tmp_path / "part_0_r0_0.npy", words)
    with pytest.raises(ValueError, match=refused("connections", "another folder")):
        ConnectionStore(tmp_path, "f")
    state = {"format": 1, "fingerprint": "f", "generation": 0, "rows": {}}
    with pytest.raises(ValueError, match=refused("connections", "another folder")):
        ConnectionStore(tmp_path / "new", "f").rollback(state)


def test_mined_connections_are_read(tmp_path: Path) -> None:
    """connections.parquet has the columns that it had."""
    from lavis_mafa.scorers.verdict_file import FileScorer

    rows = {"image_id": [1, 1, 2], "text_id": [5, 6, 5], "p": [0.9, 0.6, 0.1]}
    pd.DataFrame({**rows, "verdict": ["connection", "ambiguous", "negative"]}).to_parquet(tmp_path / "c.parquet")
    scorer = FileScorer.read(tmp_path / "c.parquet", 0.5, 0.8)
    batch = {"image_id": torch.tensor([1, 2]), "text_id": torch.tensor([5, 6])}
    p_K = scorer.score(batch, torch.tensor([0, 0, 1]), torch.tensor([0, 1, 0]))
    assert p_K.tolist() == pytest.approx([0.9, 0.6, 0.0])


def checkpoint_of_010(folder: Path) -> Path:
    path = folder / "checkpoint_e0001_s0000000.pth"
    content = {"format": 2, "data": "f", "world_size": 1, "epoch": 1, "step": 0, "model": {"a": torch.ones(2)}}
    torch.save({**content, "stores": [{"embeddings": None, "connections": None}], "config": "{}"}, path)
    return path


def test_a_checkpoint_is_refused_but_gives_its_weights(tmp_path: Path) -> None:
    from lavis_mafa.models.weights import read_state_dict
    from lavis_mafa.runners import checkpoint

    path = checkpoint_of_010(tmp_path)
    with pytest.raises(ValueError, match=refused("checkpoint", "model.pretrained set to this file")):
        checkpoint.load(path, {"data": "f"}, lambda content: None)
    assert read_state_dict(path)["a"].tolist() == [1, 1]


def test_weights_are_read(tmp_path: Path) -> None:
    from lavis_mafa.models.weights import read_state_dict

    safetensors.torch.save_file({"a": torch.ones(2)}, tmp_path / "model.safetensors")
    torch.save({"model": {"a": torch.ones(2)}, "epoch": 3, "value": 71.5}, tmp_path / "checkpoint_best.pth")
    for name in ("model.safetensors", "checkpoint_best.pth"):
        assert read_state_dict(tmp_path / name)["a"].tolist() == [1, 1]


def test_a_config_with_every_key_of_a_run_is_read(tmp_path: Path) -> None:
    from lavis_mafa.config.load import load_config

    lavis_mafa.register()
    (tmp_path / "run.yaml").write_text(CONFIG)
    run = load_config(Namespace(cfg_path=str(tmp_path / "run.yaml"), options=[])).config.run
    assert {key: run[key] for key in RUN if key != "device"} == {key: RUN[key] for key in RUN if key != "device"}


def test_a_mining_config_with_every_key_is_read(tmp_path: Path) -> None:
    from lavis_mafa.common.run_schema import MineRun
    from lavis_mafa.config.load import load_config

    lavis_mafa.register()
    (tmp_path / "mine.yaml").write_text(MINING)
    given = OmegaConf.create(MINING).run
    run = load_config(Namespace(cfg_path=str(tmp_path / "mine.yaml"), options=[]), MineRun).config.run
    assert {key: run[key] for key in given} == dict(given)


def test_another_version_is_named_by_what_it_wrote() -> None:
    with pytest.raises(OldOutputError, match=r"by lavis_mafa 9\.8\.7, whose"):
        check_format("x", "plan", {"format": "lavis_mafa plan 99", "version": "9.8.7"}, "do that")
    with pytest.raises(ValueError, match="is not a plan file"):
        check_format("x", "plan", {"order": 3}, "do that")
    for kind in FORMATS:
        check_format("x", kind, {**header(kind), "version": "0.2.9"}, "nothing")  # the format counts, not the version


CONFIG = """
model: {arch: mafa_blip2, model_type: scenes, mafa: {preset: mafa}}
datasets: {scenes: {}}
run:
  task: mafa_pretrain
  runner: grit_runner
  output_dir: output/mafa/blip2_scenes
  seed: 42
  device: cpu
  distributed: false
  dist_url: env://
  world_size: 1
  rank: 0
  gpu: 0
  num_workers: 0
  train_splits: [train]
  valid_splits: [val]
  test_splits: [test]
  evaluate: false
  k_test: 16
  judged_pairs: null
  coco_captions: null
  zero_shot: null
  answer_list: null
  expected: null
  lemmatise: false
  length_penalty: null
  match: vqa
  max_len: 10
  min_len: 1
  num_ans_candidates: 128
  num_beams: 5
  prompt: ''
  references: null
  without_image: false
  max_epoch: 6
  stop_epoch: null
  batch_size_train: 64
  batch_size_eval: 64
  accum_grad_iters: 1
  precision: fp32
  lr_sched: linear_warmup_cosine_lr
  lr_decay_rate: null
  init_lr: 0.001
  min_lr: 1.0e-05
  warmup_lr: 1.0e-05
  warmup_steps: 60
  weight_decay: 0.05
  beta2: 0.999
  sampling: grit
  search_space: 960
  random_epochs: 1
  skip_nearest: 0
  quantile: 1.0
  con_d: {arch: mafa_albef, model_type: scenes_con_d}
  cache_tokens: true
  token_folder: null
  resume_ckpt_path: auto
  save_every_steps: 0
  keep_checkpoints: 2
"""
RUN = OmegaConf.to_container(OmegaConf.create(CONFIG).run)

MINING = """
model: {arch: mafa_albef, model_type: scenes_con_d}
datasets: {scenes: {splits: {train: {n: 10, seed: 21}}}}
run:
  task: mafa_mine
  output_dir: output/mafa/mine
  split: train
  seed: 42
  device: cpu
  num_workers: 0
  batch_size_eval: 64
  con_d: {arch: mafa_albef, model_type: scenes_con_d}
  low: 0.5
  high: 0.8
  hide_siblings: false
  range_min: 0
  range_max: 20
  min_score: null
  max_score: null
  absolute_margin: null
  relative_margin: null
  index: auto
  nprobe: 64
  cache_folder: null
  review: null
  review_size: 200
  judged_pairs: null
  gallery_size: 2000
"""
