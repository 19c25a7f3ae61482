"""The config of a run: LAVIS' merge of packaged defaults, the YAML and --options, checked key by key."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

import torch
from lavis.common.config import Config
from lavis.common.registry import registry
from omegaconf import OmegaConf

from lavis_mafa.common.config_file import omegaconf_told, read_config_file
from lavis_mafa.common.files import CONFIGS
from lavis_mafa.common.plugins import load_plugins
from lavis_mafa.common.ranks import PATIENCE
from lavis_mafa.config.keys import check_names, is_lavis_task
from lavis_mafa.config.smoke import shorten
from lavis_mafa.config.values import check_mining, check_values


def parse_arguments(description: str, dry_run: bool = False, engines: tuple[str, ...] = ()) -> argparse.Namespace:
    """--cfg-path and --options; with `dry_run` also --dry-run, with `engines` also --engine, the first its default."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument(
        "--cfg-path", required=True, help="YAML of the run, e.g. projects/mafa/blip2/pretrain_stage1_scenes.yaml"
    )
    parser.add_argument(
        "--options", nargs="+", default=[], metavar="KEY=VALUE", help="override settings, e.g. run.max_epoch=2"
    )
    if dry_run:
        parser.add_argument("--dry-run", action="store_true", help="say what the run would be and lacks, and end")
    if engines:
        parser.add_argument("--engine", choices=engines, default=engines[0], help="who does the work")
    return parser.parse_args()


class RunConfig(Config):
    """LAVIS' Config over a YAML and options merged already, so that an option may choose a model_type or a data set."""

    def __init__(self, given: Any, defaults: Any) -> None:
        registry.register("configuration", self)
        self.args = None
        parts = (self.build_runner_config(given), self.build_model_config(given), self.build_dataset_config(given))
        self.config = OmegaConf.merge(defaults, *parts)


def load_config(arguments: argparse.Namespace, defaults_file: str = "run.yaml") -> RunConfig:
    """The run's config over packaged defaults, every key and value checked (keys.py, values.py).

    Raises:
        ValueError: a missing or broken file, an option that is not key=value, an unknown key (the closest valid one is
            named), a value that is not allowed, an environment variable that is not set.
    """
    given = read_config_file(Path(arguments.cfg_path), arguments.options)
    defaults = OmegaConf.load(CONFIGS / defaults_file)
    with omegaconf_told(arguments.cfg_path):
        if OmegaConf.is_dict(given.get("run")):  # else check_names says so
            load_plugins(given.run.get("plugins", []))
        check_names(given, defaults.run)
        if "runner" not in given.run and is_lavis_task(given.run.get("task")):
            given.run.runner = "runner_base"  # LAVIS' own default, for its own tasks
        for name in [name for name, dataset in given.datasets.items() if dataset is None]:
            given.datasets[name] = {}
        cfg = RunConfig(given, defaults)
        cfg.config = shorten(cfg.config)
        OmegaConf.to_container(cfg.config, resolve=True)
        if cfg.config.run.device == "auto":
            cfg.config.run.device = "cuda" if torch.cuda.is_available() else "cpu"
        (check_values if "runner" in defaults.run else check_mining)(cfg.config)
    return cfg


def init_distributed(run: Any) -> None:
    """Join torchrun's process group (NCCL on GPUs, gloo on CPUs); alone, nothing is joined."""
    run.distributed = "RANK" in os.environ and "WORLD_SIZE" in os.environ
    if not run.distributed:
        return
    run.rank, run.world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    run.gpu = int(os.environ.get("LOCAL_RANK", 0))
    if run.device == "cuda":
        torch.cuda.set_device(run.gpu)
    torch.distributed.init_process_group("nccl" if run.device == "cuda" else "gloo", timeout=PATIENCE)
