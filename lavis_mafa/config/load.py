"""The config of a run: LAVIS' merge of packaged defaults, the YAML and --options, checked key by key."""

from __future__ import annotations

import argparse
import logging
import os
from collections.abc import MutableMapping, Sequence
from pathlib import Path

import lavis_mafa.compat  # noqa: F401  before the first `lavis` import

import torch
from lavis.common.config import Config
from lavis.common.registry import registry
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ValidationError

from lavis_mafa.common.config_file import (
    home_expanded,
    loaded,
    merged,
    named_config_errors,
    plain_config,
    read_config_file,
)
from lavis_mafa.common.plugins import load_plugins
from lavis_mafa.common.ranks import PATIENCE, patient_group
from lavis_mafa.common.run_schema import MineRun, Schema, TrainRun
from lavis_mafa.common.shapes import check_shapes
from lavis_mafa.config.checks import check_mining, check_texts, typed_run, wrong_type
from lavis_mafa.config.devices import chosen_device, take_device
from lavis_mafa.config.keys import check_names, check_read_by_task, is_lavis_task
from lavis_mafa.config.run_values import normalise_prompt
from lavis_mafa.config.smoke import shorten
from lavis_mafa.config.values import check_downloads, check_values
from lavis_mafa.models.pretrained import PATHS, weights_switches


class RunConfig(Config):
    """LAVIS' Config over a YAML and options merged already, so that an option may choose a model_type or a data set.

    The values of `run` have the types of `schema`; the config itself is a plain one, which takes any key.
    """

    def __init__(self, given: DictConfig, schema: Schema) -> None:
        registry.register("configuration", self)
        self.args = None
        for splits, split in _empty_splits(given):
            splits[split] = None  # also where the packaged default has keys, over which [] would not merge
        typed = OmegaConf.create({"run": typed_run(given.run, schema)})
        chosen = merged(typed, self.build_model_config(given), self.build_dataset_config(given))
        for splits, split in _empty_splits(chosen):
            del splits[split]
            _forget_split(chosen.run, split)
        try:
            OmegaConf.to_container(chosen, resolve=True)
            run = plain_config(chosen.run)
        except ValidationError as error:  # of a key with ${…}
            raise ValueError(wrong_type(str(error.key), error.value, schema)) from error
        numbers = {name: value for name, value in run.items() if isinstance(value, (bool, int, float))}
        self.config = home_expanded(merged(chosen, {"run": numbers}))


def _empty_splits(config: DictConfig) -> list[tuple[MutableMapping[str, object], str]]:
    """(where it stands, name) of every split that is null or empty, as `annotations.val=null` makes it."""
    places = ("annotations", "splits", "build_info.annotations")
    found = [OmegaConf.select(dataset, place) for dataset in config.datasets.values() for place in places]
    return [
        (splits, name) for splits in filter(OmegaConf.is_dict, found) for name, files in splits.items() if not files
    ]


def _forget_split(run: DictConfig, split: str) -> None:
    """A split that the config sets to null is not evaluated either."""
    for key in ("valid_splits", "test_splits"):
        if split in (run.get(key) or []):
            logging.getLogger(__name__).warning("the split %s is null: run.%s goes without it", split, key)
            run[key] = [name for name in run[key] if name != split]


def load_config(arguments: argparse.Namespace, schema: Schema = TrainRun) -> RunConfig:
    """The run's config over packaged defaults, every key and value checked (keys.py, values.py).

    Raises:
        ValueError: a missing or broken file, an option that is not key=value, an unknown key (the closest valid one is
            named), a value that is not allowed, an environment variable that is not set.
    """
    given = read_config_file(Path(arguments.cfg_path), arguments.options)
    with named_config_errors(arguments.cfg_path):
        if OmegaConf.is_dict(given.get("run")):  # else check_names says so
            load_plugins(given.run.get("plugins", []))
        check_names(given, schema)
        check_texts(given.run, schema)
        if "runner" not in given.run and is_lavis_task(given.run.get("task")):
            given.run.runner = "runner_base"  # LAVIS' own default, for its own tasks
        for name in [name for name, dataset in given.datasets.items() if dataset is None]:
            given.datasets[name] = {}
        cfg = RunConfig(given, schema)
        check_shapes(plain_config(cfg.config))
        if given.get("model"):
            cfg.config.model.update(_weights_switches(given, arguments.options))
        if smoke := getattr(arguments, "smoke", None):
            cfg.config = shorten(cfg.config, smoke)
        cfg.config.run.device = chosen_device(cfg.config.run.device)
        if schema is MineRun:
            check_mining(cfg.config)
            check_downloads(cfg.config)
        else:
            normalise_prompt(cfg.config.run)
            check_values(cfg.config)
            if not is_lavis_task(cfg.config.run.task):
                check_read_by_task(given.run, cfg.config.run, schema)
    return cfg


def _weights_switches(given: DictConfig, options: Sequence[str]) -> dict[str, bool]:
    """Those by which the weights that the YAML or an option names are loaded."""
    model_cls = registry.get_model_class(given.model.arch)
    packaged = loaded(model_cls.default_config_path(given.model.get("model_type"))).model
    chosen = [key for key in PATHS if any(option.startswith(f"model.{key}=") for option in options)]
    return weights_switches(packaged, given.model, insisted=chosen)


def init_distributed(run: DictConfig) -> None:
    """Take the GPU of this process, and join torchrun's process group (NCCL on GPUs, gloo on CPUs); alone, none is
    joined.

    Raises:
        ValueError: one GPU for several processes, or more processes than GPUs.
    """
    run.distributed = "RANK" in os.environ and "WORLD_SIZE" in os.environ
    if not run.distributed:
        take_device(run.device)
        return
    run.rank, run.world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    run.gpu = int(os.environ.get("LOCAL_RANK", 0))
    take_device(run.device, run.gpu)
    torch.distributed.init_process_group("nccl" if run.device == "cuda" else "gloo", timeout=PATIENCE)
    patient_group()
