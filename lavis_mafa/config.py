"""The config of a run: LAVIS' merge of packaged defaults, the YAML and --options, checked key by key."""

from __future__ import annotations

import argparse
import difflib
import os
from pathlib import Path
from typing import Any

import torch
from lavis.common.config import Config
from omegaconf import OmegaConf

CONFIGS = Path(__file__).resolve().parent / "configs"
OPEN_KEYS = ("con_d", "mafa", "qformer", "annotations", "columns", "splits", "vis_processor", "text_processor", "preprocess")


def parse_arguments(description: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--cfg-path", required=True, help="YAML of the run, e.g. projects/mafa/blip2/pretrain_stage1_scenes.yaml")
    parser.add_argument("--options", nargs="+", default=[], metavar="KEY=VALUE", help="override settings, e.g. run.max_epoch=2")
    return parser.parse_args()


def load_config(arguments: argparse.Namespace) -> Config:
    """LAVIS' Config over packaged run defaults.

    Raises:
        ValueError: a missing file, an option that is not key=value, an unknown key (the closest valid one is named).
    """
    path = Path(arguments.cfg_path)
    if not path.is_file():
        raise ValueError(f"--cfg-path: no file at {path}; the runs are in projects/mafa")
    for option in arguments.options:
        if "=" not in option:
            raise ValueError(f"--options takes key=value, e.g. run.max_epoch=2; got {option!r}")
    cfg = Config(arguments)
    defaults = OmegaConf.load(CONFIGS / "run.yaml")
    cfg.config = OmegaConf.merge(defaults, cfg.config)
    _check_keys(OmegaConf.load(path), OmegaConf.from_dotlist(list(arguments.options)), defaults.run)
    run = cfg.config.run
    if run.device == "auto":
        run.device = "cuda" if torch.cuda.is_available() else "cpu"
    return cfg


def _check_keys(given: Any, options: Any, run_defaults: Any) -> None:
    """Every key below `run` must be one of configs/run.yaml."""
    for source in (given, options):
        for key in source.get("run", {}):
            if key not in run_defaults:
                closest = difflib.get_close_matches(key, list(run_defaults), n=1, cutoff=0.0)[0]
                raise ValueError(f"unknown key run.{key}: did you mean run.{closest}?")
        for key in source:
            if key not in ("run", "model", "datasets"):
                raise ValueError(f"unknown key {key}: a config has run, model and datasets")


def init_distributed(run: Any) -> None:
    """Join torchrun's process group (NCCL on GPUs, gloo on CPUs); alone, nothing is joined."""
    run.distributed = "RANK" in os.environ and "WORLD_SIZE" in os.environ
    if not run.distributed:
        return
    run.rank, run.world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    run.gpu = int(os.environ.get("LOCAL_RANK", 0))
    if run.device == "cuda":
        torch.cuda.set_device(run.gpu)
    torch.distributed.init_process_group("nccl" if run.device == "cuda" else "gloo")
