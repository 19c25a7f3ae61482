"""Values in a config: a wrong one is named with its key and what is allowed, before anything is built."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sized
from pathlib import Path

import lavis_mafa.compat  # noqa: F401  before the first `lavis` import

from lavis.common.registry import registry
from omegaconf import DictConfig, OmegaConf

from lavis_mafa.common.downloads import is_url
from lavis_mafa.common.files import local_file
from lavis_mafa.common.run_schema import TrainRun
from lavis_mafa.config.checks import check_image_rules, check_ranges, named, refuse
from lavis_mafa.config.keys import is_ours
from lavis_mafa.config.run_values import check_run
from lavis_mafa.core.settings import MafaSettings
from lavis_mafa.models.pretrained import local_files
from lavis_mafa.scorers.registry import judge_files

ON_BAD_IMAGE = ("raise", "replace")


def check_values(cfg: DictConfig) -> None:
    """Every value of a merged config that can be judged without building anything.

    Raises:
        ValueError: naming the key, its value and the allowed ones.
    """
    run = cfg.run
    check_ranges(run, TrainRun)
    check_run(run)
    model_cls = registry.get_model_class(cfg.model.arch)
    if is_ours(model_cls):
        with named("model.mafa"):
            MafaSettings.from_dict(cfg.model.get("mafa") or {})
        _check_evaluation(run, cfg.model.arch, getattr(model_cls, "has_itm", True))
    check_image_rules(cfg)
    check_downloads(cfg)
    for name, dataset in cfg.datasets.items():
        choice = dataset.get("on_bad_image", "raise")
        if choice not in ON_BAD_IMAGE:
            refuse(f"datasets.{name}.on_bad_image", choice, " or ".join(ON_BAD_IMAGE))
        if choice == "replace" and run.get("cache_tokens", False):  # a record would keep the tokens of its replacement
            refuse(f"datasets.{name}.on_bad_image", choice, "raise where run.cache_tokens is true")


def _check_evaluation(run: DictConfig, arch: str, has_itm: bool) -> None:
    """What only a dual encoder does, and what it cannot."""
    if run.get("k_test", 0) and not has_itm:
        refuse("run.k_test", run.k_test, f"0, as {arch} has no matching head to re-rank with")
    if run.get("zero_shot") and has_itm:
        refuse("run.zero_shot", run.zero_shot, f"null, as {arch} is not a model of open_clip (mafa_openclip is)")


def refuse_missing(cfg: DictConfig) -> None:
    """ValueError naming every file that the config asks for and this machine lacks."""
    if lacking := missing_files(cfg):
        raise ValueError("files are missing:\n  " + "\n  ".join(lacking))


def missing_files(cfg: DictConfig) -> list[str]:
    """What the config names and this machine lacks, a sentence each, with its key. URLs would be fetched."""
    lacking = [f"{key}: {problem}" for key, path in _weights(cfg) if (problem := _lacks(path))]
    for name, dataset in cfg.datasets.items():
        for key, path in _data_paths(dataset):
            if not Path(str(path)).expanduser().exists():
                lacking.append(f"datasets.{name}.{key}: nothing at {path}")
    return lacking


def _weights(cfg: DictConfig) -> Iterator[tuple[str, str]]:
    if not is_ours(registry.get_model_class(cfg.model.arch)):
        return
    yield from ((f"model.{key}", path) for key, path in local_files(cfg.model))
    con_d, mafa = cfg.run.get("con_d"), MafaSettings.from_dict(cfg.model.get("mafa") or {})
    if con_d and not cfg.run.evaluate and mafa.asks_scorer:
        yield from ((f"run.con_d.{key}", path) for key, path in judge_files(con_d))


def _lacks(path: str) -> str:
    """A vocabulary may be a folder; everything else is a file, or `package:FILE`."""
    if Path(path).expanduser().is_dir():
        return ""
    try:
        local_file(path)
    except ValueError as error:
        return str(error)
    return ""


def check_downloads(cfg: DictConfig) -> None:
    """What a URL of the config gives is written below the cache, and nowhere else.

    Raises:
        ValueError: LAVIS would write an annotation to another place.
    """
    cache = registry.get_path("cache_root")
    for name, dataset in cfg.datasets.items():
        for key, url, file in _lavis_annotations(dataset.get("build_info") or OmegaConf.create({})):
            path = Path(cache, file)
            given = is_url(url) or Path(url).is_file()  # which LAVIS copies
            if given and not path.exists() and not path.resolve().is_relative_to(Path(cache).resolve()):
                refuse(
                    f"datasets.{name}.{key}", file, f"a path below the cache {cache}, as {url} would be written there"
                )


def _data_paths(dataset: DictConfig) -> Iterator[tuple[str, str]]:
    if dataset.get("build_info"):
        yield from _lavis_paths(dataset.build_info)
    roots = dataset.get("images") or []
    yield from (("images", root) for root in ([roots] if isinstance(roots, str) else roots))
    for split, files in (dataset.get("annotations") or {}).items():
        for file in [files] if isinstance(files, str) else files:
            yield f"annotations.{split}", file


def _lavis_paths(build_info: DictConfig) -> Iterator[tuple[str, str]]:
    """LAVIS' data sets: their images, and the annotations that no URL gives, below its cache unless absolute."""
    cache = registry.get_path("cache_root")
    if build_info.get("images"):
        yield "build_info.images.storage", str(Path(cache, build_info.images.storage))
    for key, url, file in _lavis_annotations(build_info):
        if not is_url(url):
            yield key, str(Path(cache, file))


def _lavis_annotations(build_info: DictConfig) -> Iterator[tuple[str, str, str]]:
    """(key, URL or "", place) of the annotation files of one of LAVIS' data sets."""
    for split, info in (build_info.get("annotations") or {}).items():
        urls, files = ([value] if isinstance(value, str) else value for value in (info.get("url") or [], info.storage))
        for number, file in enumerate(files):
            yield f"build_info.annotations.{split}.storage", str(urls[number] if number < len(urls) else ""), file


def check_data(cfg: DictConfig, datasets: Mapping[str, Mapping[str, Sized]]) -> None:
    """What only the built data sets can tell: their splits, and whether a step finds enough records.

    Raises:
        ValueError: a split that no data set has, or more records a step than there are.
    """
    run = cfg.run
    if len(datasets) != 1:
        raise ValueError(f"datasets: grit_runner takes one data set, not {len(datasets)} ({', '.join(datasets)})")
    ((name, splits),) = datasets.items()
    for key in ("train_splits", "valid_splits", "test_splits"):
        for split in run.get(key) or []:
            if split not in splits:
                refuse(f"run.{key}", split, f"a split of datasets.{name}: {', '.join(splits)}")
    if run.evaluate or "train" not in splits:
        return
    records, world = len(splits["train"]), int(run.world_size)
    if run.batch_size_train * world > records:
        ranks = f" on each of {world} ranks" if world > 1 else ""
        refuse(
            "run.batch_size_train",
            run.batch_size_train,
            f"at most {records // world}{ranks}: train has {records} records",
        )
