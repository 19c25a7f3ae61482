"""`python -m lavis_mafa.mine --cfg-path X.yaml --options a.b=c`: the missing connections of any data set.

`--engine ray` embeds, searches and scores on the Ray cluster of RAY_ADDRESS, or on two workers that it starts.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from omegaconf import OmegaConf

from lavis_mafa import register
from lavis_mafa.common.artifacts import sweep
from lavis_mafa.common.cache import JOB
from lavis_mafa.common.config_file import plain_config
from lavis_mafa.common.folders import held
from lavis_mafa.common.loading import worker_errors
from lavis_mafa.common.plugins import load_plugins
from lavis_mafa.common.stdout import log_messages, print_anything
from lavis_mafa.common.stopping import stops_on_signals
from lavis_mafa.config.devices import take_device
from lavis_mafa.config.output import output_folder
from lavis_mafa.evaluation.judge_check import report_judge
from lavis_mafa.mining.corpus import Corpus
from lavis_mafa.mining.engine import NOTHING, Networks, mine, stored_embeddings
from lavis_mafa.mining.ray_engine import RayEngine
from lavis_mafa.mining_job.config import load_mining
from lavis_mafa.mining_job.dry_run import dry_run
from lavis_mafa.mining_job.inputs import read_inputs
from lavis_mafa.mining_job.networks import networks, rule
from lavis_mafa.mining_job.parts import Job, Reviewed
from lavis_mafa.mining_job.report import report
from lavis_mafa.mining_job.source import JobConfig, load_source, lost_images

ENGINES = ("local", "ray")
EXAMPLE = "projects/mafa/mine/mine_scenes.yaml", "run.range_max=10"


@dataclass(frozen=True)
class BuildNetworks:
    """Builds the networks of a config wherever it is called: a Ray worker may stand on another machine."""

    config: Mapping[str, object]  # resolved
    data: str  # fingerprint of the records
    folder: str  # where plugins may lie

    def __call__(self) -> Networks:
        """Raises ValueError: the annotation is another one here, or a plugin is not here."""
        config = OmegaConf.create(dict(self.config))
        if "model" in config:
            register()
        else:
            import lavis_mafa.scorers.without_lavis  # noqa: F401
        load_plugins(config.run.plugins, folder=self.folder)
        model, data, run = config.get("model"), config.datasets, config.run
        cfg = SimpleNamespace(config=config, model_cfg=model, datasets_cfg=data, run_cfg=run)
        source = load_source(cfg)
        if source.data.table.fingerprint != self.data:
            raise ValueError(
                "a Ray worker reads a different annotation from this machine: give all nodes the same files"
            )
        return networks(cfg, source.data, torch.device(config.run.device))


def _ray_engine(cfg: JobConfig, models: Networks, corpus: Corpus) -> RayEngine:
    """Raises ValueError: run.device names one GPU."""
    if ":" in cfg.run_cfg.device:
        raise ValueError(
            f"run.device is {cfg.run_cfg.device}, but Ray gives every worker a GPU of its own: set it to cuda"
        )
    build = BuildNetworks(plain_config(cfg.config), corpus.table.fingerprint, os.getcwd())
    return RayEngine(build, models, gpus=cfg.run_cfg.device.startswith("cuda"))


def run(arguments: argparse.Namespace, engine: str = ENGINES[0]) -> dict[str, object]:
    """Mine what the config names, here or on Ray; returns what summary.json holds."""
    cfg = load_mining(arguments)
    settings, bounds = cfg.run_cfg, rule(cfg.run_cfg)
    inputs = read_inputs(cfg)
    source, corpus, judged, labels = inputs.source, inputs.corpus, inputs.judged, inputs.labels
    if lost := lost_images(source):
        raise ValueError(lost)
    take_device(settings.device)
    folder = Path(settings.output_dir).resolve()
    cache = Path(settings.cache_folder) if settings.cache_folder else folder / "cache"
    with output_folder(settings, "mine"), held(cache, JOB, "run.cache_folder"):
        for place in (folder, cache, *cache.glob("scores_*")):
            sweep(place)
        models = networks(cfg, source.data, torch.device(settings.device))
        worker = _ray_engine(cfg, models, corpus) if engine == "ray" else None
        asked = [judged.key_A if judged else NOTHING, labels.key_L if labels else NOTHING]
        asked_A = np.unique(np.concatenate(asked))
        with worker_errors():
            check = report_judge(models.score, source.data.table, bounds, cosines=models.gives_cosines)
            mined = mine(corpus, models, inputs.search, bounds, cache, source.stamp, worker, asked_A)
        judged_p, label_p = (mined.asked_p_A[np.searchsorted(asked_A, keys)] for keys in asked)
        mined = replace(mined, asked_p_A=judged_p)
        job = Job(folder, cfg, source, corpus, mined, bounds, check, models.scorer_fingerprint, judged, models.report())
        if labels:
            job = replace(job, reviewed=Reviewed(labels, label_p))
        if settings.target_precision:
            job = replace(job, embeddings=stored_embeddings(corpus, models, cache, source.stamp))
        return report(job)


def main() -> None:
    from lavis_mafa.config.arguments import parse_arguments

    print_anything()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    log_messages(logging.INFO)
    logging.getLogger("faiss").setLevel(logging.WARNING)  # it logs every instruction set that it tries
    arguments = parse_arguments(
        "Find the missing connections of an image-text data set",
        dry_run=True,
        engines=ENGINES,
        example=EXAMPLE,
        test_set=True,
    )
    if arguments.test_set:
        arguments.options.append("run.test_set=true")
    if arguments.dry_run:
        sys.exit(int(bool(dry_run(load_mining(arguments)))))
    with stops_on_signals():
        run(arguments, arguments.engine)
