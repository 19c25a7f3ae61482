"""What a run reads or fetches before its first step. `--dry-run` reads the same and fetches nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import lavis_mafa.compat  # noqa: F401  before the first `lavis` import

import torch
from lavis.common.config import Config
from lavis.common.registry import registry
from lavis.models.base_model import BaseModel
from omegaconf import DictConfig
from transformers import AutoConfig

from lavis_mafa.core.settings import MafaSettings
from lavis_mafa.datasets.lavis_captions import Splits
from lavis_mafa.models.blip2.language_model import language_model_folder
from lavis_mafa.models.pretrained import checkpoint_key
from lavis_mafa.runners.grit import GritRunner
from lavis_mafa.runners.retrieval import RetrievalRunner
from lavis_mafa.runners.retrieval_evaluation import coco_ids_of, judged_pairs_of
from lavis_mafa.scorers.registry import ScorerRequest, build_scorer
from lavis_mafa.tasks.pretrain import MafaPretrainTask, refuse_without_judge

FIRST = 4  # samples of a split that are read


def to_fetch(cfg: DictConfig) -> list[str]:
    """What a run would fetch first: weights by URL, annotations of LAVIS' data sets, a language model of the hub."""
    model_cls = registry.get_model_class(cfg.model.arch)
    return [*_weights(cfg.model), *_annotations(cfg), *_language_model(model_cls, cfg.model)]


def _weights(model: DictConfig) -> Iterator[str]:
    """Those of the checkpoint that is loaded, or else of the tower."""
    key = checkpoint_key(model) or "vit_weights"
    url = str(model.get(key) or "")
    if (
        url.startswith(("http://", "https://"))
        and not Path(torch.hub.get_dir(), "checkpoints", Path(url).name).exists()
    ):
        yield f"model.{key}: the run will download {url}"


def _annotations(cfg: DictConfig) -> Iterator[str]:
    cache = registry.get_path("cache_root")
    for name, dataset in cfg.datasets.items():
        annotations = dataset.get("build_info", {}).get("annotations", {})
        for split, info in annotations.items():
            urls, files = ([value] if isinstance(value, str) else value for value in (info.url, info.storage))
            for url, file in zip(urls, files, strict=True):
                if str(url).startswith("http") and not Path(cache, file).exists():
                    yield f"datasets.{name}, {split}: the run will download {url}"


def _language_model(model_cls: type[BaseModel], model: DictConfig) -> Iterator[str]:
    key = getattr(model_cls, "llm", None)
    if key is None:
        return
    source = language_model_folder(str(model[key]))
    try:
        AutoConfig.from_pretrained(source, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError):
        yield f"model.{key}: the run will download {source}"


def unreadable(datasets: Mapping[str, Splits]) -> list[str]:
    """The first fault of every split among its first samples, read as training and evaluation read them."""
    found = []
    for name, splits in datasets.items():
        for split, dataset in splits.items():
            for row in range(min(FIRST, len(dataset))):
                try:
                    dataset[row]
                except (OSError, ValueError) as error:
                    found.append(f"datasets.{name}, split {split}, sample {row}: {error}")
                    break
    return found


def refuse_as_the_run(cfg: Config, splits: Splits) -> None:
    """ValueError where task or runner would raise one before the first step, over what the config says of `splits`."""
    run = cfg.run_cfg
    mafa = MafaSettings.from_dict(cfg.model_cfg.get("mafa") or {})
    if issubclass(registry.get_task_class(run.task), MafaPretrainTask) and not run.evaluate:
        refuse_without_judge(mafa, run)
        if run.get("con_d") and run.con_d.arch == "file" and mafa.asks_scorer:
            build_scorer(ScorerRequest(run.con_d, "run.con_d", torch.device("cpu"), mafa, splits["train"]))
    if issubclass(registry.get_runner_class(run.runner), (GritRunner, RetrievalRunner)):
        judged_pairs_of(run, run.test_splits, splits)
        coco_ids_of(run, run.test_splits, splits)
