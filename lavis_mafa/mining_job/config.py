"""The config of a mining job. One without a section `model` needs no LAVIS: its judge proposes the candidates, too."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, fields
from inspect import signature
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from lavis_mafa.common.config_file import home_expanded, loaded, merged, named_config_errors, read_config_file
from lavis_mafa.common.files import CONFIGS
from lavis_mafa.common.plugins import load_plugins
from lavis_mafa.common.run_schema import MineRun
from lavis_mafa.config.checks import check_keys, check_mining, check_texts, typed_run
from lavis_mafa.config.devices import chosen_device
from lavis_mafa.config.smoke import shorten
from lavis_mafa.data.annotations import read_annotations
from lavis_mafa.data.rules import FileRules
from lavis_mafa.mining_job.source import JobConfig
from lavis_mafa.scorers.registry import Section, judge_of, keys_of

DATASETS = ("image_text", "scenes")


@dataclass
class PlainConfig:
    """Sections as LAVIS' Config has them, without `model`."""

    config: DictConfig
    model_cfg: None = None

    @property
    def run_cfg(self) -> DictConfig:
        found: DictConfig = self.config.run
        return found

    @property
    def datasets_cfg(self) -> DictConfig:
        found: DictConfig = self.config.datasets
        return found


def load_mining(arguments: argparse.Namespace) -> JobConfig:
    """The job's config over packaged defaults, checked; what it names is registered.

    Raises ValueError: as config.load.load_config; without `model`, a judge or a data set that needs LAVIS.
    """
    given = read_config_file(Path(arguments.cfg_path), arguments.options)
    if "model" not in given:
        import lavis_mafa.scorers.without_lavis  # noqa: F401

        with named_config_errors(arguments.cfg_path):
            return _plain(given, getattr(arguments, "smoke", None))
    from lavis_mafa import register

    register()
    from lavis_mafa.config.load import load_config

    return load_config(arguments, MineRun)


def _plain(given: DictConfig, smoke: Path | None) -> PlainConfig:
    check_keys(given, ("run", "datasets"), "")
    run, datasets = given.get("run") or OmegaConf.create({}), given.get("datasets") or OmegaConf.create({})
    load_plugins(run.get("plugins", []))
    check_keys(run, [one.name for one in fields(MineRun)], "run")
    check_texts(run, MineRun)
    if not OmegaConf.is_dict(run.get("con_d")):
        raise ValueError("the config has no section `model`, so run.con_d must name a judge: {arch: captions, …}")
    _check_judge(run.con_d, "run.con_d")
    if len(datasets) != 1 or not {*datasets} <= {*DATASETS}:
        raise ValueError(
            f"datasets names {', '.join(map(str, datasets)) or 'nothing'}; without a section `model`, which brings "
            f"LAVIS, name one of {', '.join(DATASETS)}"
        )
    name = str(next(iter(datasets)))
    packaged, dataset = loaded(CONFIGS / "datasets" / f"{name}.yaml"), datasets[name] or OmegaConf.create({})
    _check_dataset(name, dataset, packaged.datasets[name])
    chosen = merged({"run": typed_run(run, MineRun)}, packaged, {"datasets": {name: dataset}})
    OmegaConf.to_container(chosen, resolve=True)  # what a ${…} names is there
    config = home_expanded(chosen)
    config = shorten(config, smoke) if smoke else config
    config.run.device = chosen_device(config.run.device)
    check_mining(config)
    if list(config.run.retrievers) != ["judge"]:
        raise ValueError("the config has no section `model` to propose candidates: set run.retrievers to [judge]")
    return PlainConfig(config)


def _check_judge(section: Section, where: str) -> None:
    if judge_of(section, where).is_model:
        raise ValueError(
            f"{where}.arch: {section['arch']} is a network of LAVIS; give the config a section `model`, too"
        )
    check_keys(section, keys_of(section, where), where)
    for number, member in enumerate(section.get("judges") or ()):
        if OmegaConf.is_dict(member):  # else its builder says what is wrong
            _check_judge(member, f"{where}.judges.{number}")


def _check_dataset(name: str, given: DictConfig, packaged: DictConfig) -> None:
    where = f"datasets.{name}"
    check_keys(given, [*packaged, *(one.name for one in fields(FileRules))], where)
    keywords = [key for key, one in signature(read_annotations).parameters.items() if one.kind is one.KEYWORD_ONLY]
    check_keys(given.get("columns") or {}, keywords, f"{where}.columns")
