"""`python -m lavis_mafa.mine --cfg-path X.yaml --options a.b=c`: the missing connections of any data set.

`--engine ray` embeds, searches and scores on the Ray cluster of RAY_ADDRESS, or on two workers that it starts.
"""

from __future__ import annotations

import argparse
import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from lavis.common.config import Config
from omegaconf import DictConfig, OmegaConf
from torch.utils.data import DataLoader, Subset

from lavis_mafa import register
from lavis_mafa.common.artifacts import sweep
from lavis_mafa.common.config_file import plain_config
from lavis_mafa.common.hashing import digest
from lavis_mafa.common.plugins import load_plugins
from lavis_mafa.common.stdout import print_anything
from lavis_mafa.common.versions import installed_versions
from lavis_mafa.core.batch import Batch, on_device
from lavis_mafa.core.neighbors import choose
from lavis_mafa.core.scorer import PairScorer, View, view_of
from lavis_mafa.core.settings import MafaSettings
from lavis_mafa.data.dataset import RecordImages, Sample
from lavis_mafa.data.records import RecordTable
from lavis_mafa.evaluation.judgments import read_judged_pairs
from lavis_mafa.mining.candidates import SearchSettings
from lavis_mafa.mining.corpus import Corpus
from lavis_mafa.mining.engine import Networks, mine
from lavis_mafa.mining.ray_engine import RayEngine
from lavis_mafa.mining_job.source import JobConfig, Records, load_source

if TYPE_CHECKING:  # they know LAVIS' models, which register() loads
    from lavis_mafa.scorers.networks import Network

TEXT_BATCH = 256
ENGINES = ("local", "ray")
EXAMPLE = "projects/mafa/mine/mine_scenes.yaml", "run.range_max=10"
# Raise it when our code makes other embeddings or scores of the same network and data: stored ones are then made anew.
RESULTS = 1


class RecordViews(RecordImages):
    """One view a record, as a network wants it; none where its `view` is None."""

    def __getitem__(self, index: int) -> Sample:
        image: Sample = {} if self.vis_processor is None else self._views(int(index))
        return image | {"index": int(index), "image_id": int(self.table.image_id[index])}


def networks(cfg: JobConfig, data: Records, device: torch.device) -> Networks:
    """The embedding model (`model`) and the judge (`run.con_d`, or the same model) as plain callables."""
    from lavis_mafa.scorers.con_d import ItmScorer, build_embedder
    from lavis_mafa.scorers.embedders import embed_images, embed_texts
    from lavis_mafa.scorers.registry import ScorerRequest, build_scorer

    run = cfg.run_cfg
    embedder = build_embedder(cfg.model_cfg, device, "model")
    if run.get("con_d"):
        records = RecordImages(data.table, data.open_image, embedder.vis_processor)
        judge = build_scorer(ScorerRequest(run.con_d, "run.con_d", device, _rule(run), records))
    elif isinstance(embedder, ItmScorer):
        judge = embedder
    else:
        raise ValueError(f"run.con_d is not set, and {cfg.model_cfg.arch} has no matching head to judge with: name one")

    def batches(view: View | None, records: np.ndarray) -> Iterator[Batch]:
        views = RecordViews(data.table, data.open_image, view)
        for batch in DataLoader(
            Subset(views, records.tolist()), batch_size=int(run.batch_size_eval), num_workers=int(run.num_workers)
        ):
            yield on_device(batch, device)

    def images(records: np.ndarray) -> np.ndarray:
        seen = batches(embedder.vis_processor, records)
        return torch.cat([embed_images(embedder.model, batch).float().cpu() for batch in seen]).numpy()

    def texts(captions: Sequence[str]) -> np.ndarray:
        processed = [embedder.text_processor(caption) for caption in captions]
        parts = [processed[start : start + TEXT_BATCH] for start in range(0, len(processed), TEXT_BATCH)]
        return torch.cat([embed_texts(embedder.model, part).float().cpu() for part in parts]).numpy()

    def score(record_K: np.ndarray, row_K: np.ndarray) -> np.ndarray:
        p_K = np.empty(len(record_K), np.float32)
        for batch in batches(view_of(judge), np.unique(record_K)):
            index = batch["index"].cpu().numpy()
            at = np.flatnonzero(np.isin(record_K, index))
            rows, text_K = np.unique(row_K[at], return_inverse=True)
            asked: Batch = {**_shown(batch), **_captions(data.table, rows)}
            image_K = torch.from_numpy(np.searchsorted(index, record_K[at])).to(device)
            p_K[at] = judge.score(asked, image_K, torch.from_numpy(text_K).to(device)).cpu().numpy()
        return p_K

    return Networks(images, texts, score, _fingerprint(embedder), _fingerprint(judge))


def _rule(run: DictConfig) -> MafaSettings:
    return MafaSettings(low=run.low, high=run.high)


def _shown(batch: Batch) -> Batch:
    """The images of a batch under the name that a scorer looks for (core/scorer.py)."""
    shown: Batch = {"index": batch["index"], "image_id": batch["image_id"]}
    if "image" in batch:
        shown["judge_image"] = batch["image"]
    return shown


def _captions(table: RecordTable, rows: np.ndarray) -> Batch:
    captions = [table.caption(row) for row in rows.tolist()]
    return {"caption": captions, "text_id": torch.from_numpy(table.text_id[rows]), "text_row": torch.from_numpy(rows)}


@dataclass(frozen=True)
class BuildNetworks:
    """Builds the networks of a config wherever it is called: a Ray worker may stand on another machine."""

    config: dict[str, Any]  # resolved
    data: str  # fingerprint of the records
    folder: str  # where plugins may lie

    def __call__(self) -> Networks:
        """Raises ValueError: the annotation is another one here, or a plugin is not here."""
        register()
        config = OmegaConf.create(self.config)
        load_plugins(self.config["run"]["plugins"], folder=self.folder)
        cfg = SimpleNamespace(model_cfg=config.model, datasets_cfg=config.datasets, run_cfg=config.run)
        source = load_source(cfg)
        if source.data.table.fingerprint != self.data:
            raise ValueError(
                "a Ray worker reads a different annotation from this machine: give all nodes the same files"
            )
        return networks(cfg, source.data, torch.device(config.run.device))


def _ray_engine(cfg: Config, models: Networks, corpus: Corpus) -> RayEngine:
    """Raises ValueError: run.device names one GPU."""
    if ":" in cfg.run_cfg.device:
        raise ValueError(
            f"run.device is {cfg.run_cfg.device}, but Ray gives every worker a GPU of its own: set it to cuda"
        )
    build = BuildNetworks(plain_config(cfg.config), corpus.table.fingerprint, os.getcwd())
    return RayEngine(build, models, gpus=cfg.run_cfg.device.startswith("cuda"))


def _fingerprint(network: Network | PairScorer) -> str:
    """What an embedding or a score depends on beside the data: weights, preparation, libraries and code."""
    from lavis_mafa.scorers.networks import Network

    preparation = network.preparation() if isinstance(network, Network) else ()
    return f"{network.fingerprint}:{digest(RESULTS, installed_versions(), *preparation)}"


def run(arguments: argparse.Namespace, engine: str = ENGINES[0]) -> dict[str, object]:
    """Mine what the config names, here or on Ray; returns what summary.json holds."""
    register()
    from lavis_mafa.common.run_schema import MineRun
    from lavis_mafa.config.devices import take_device
    from lavis_mafa.config.load import load_config
    from lavis_mafa.config.run_values import make_output_folder
    from lavis_mafa.mining_job.report import Job, report

    cfg = load_config(arguments, MineRun)
    settings = cfg.run_cfg
    search = SearchSettings(**{name: settings[name] for name in SearchSettings.__dataclass_fields__})
    rule = _rule(settings)
    source = load_source(cfg)
    corpus = Corpus.of(source.data.table, settings.hide_siblings)
    make_output_folder(settings)
    folder = Path(settings.output_dir).resolve()
    cache = Path(settings.cache_folder) if settings.cache_folder else folder / "cache"
    for place in (folder, cache, *cache.glob("scores_*")):
        sweep(place)
    choose(search.index, 1)  # a missing FAISS is reported before hours of embedding
    if settings.review and not Path(settings.review).is_file():
        raise ValueError(f"run.review: no file at {settings.review}")
    if settings.judged_pairs:
        read_judged_pairs(settings.judged_pairs, source.data.table)
    take_device(settings.device)
    models = networks(cfg, source.data, torch.device(settings.device))
    worker = _ray_engine(cfg, models, corpus) if engine == "ray" else None
    mined = mine(corpus, models, search, rule, cache, source.stamp, worker)
    return report(Job(folder, cfg, source, corpus, mined, rule))


def main() -> None:
    from lavis_mafa.config.load import parse_arguments

    print_anything()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("faiss").setLevel(logging.WARNING)  # it logs every instruction set that it tries
    arguments = parse_arguments(
        "Find the missing connections of an image-text data set", engines=ENGINES, example=EXAMPLE
    )
    run(arguments, arguments.engine)
