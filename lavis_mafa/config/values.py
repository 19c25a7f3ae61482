"""Values in a config: what is wrong is told with its key and what is allowed, before anything is built."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from lavis.common.registry import registry

from lavis_mafa.common.files import local_file
from lavis_mafa.common.precision import precision
from lavis_mafa.config.keys import is_ours, registered
from lavis_mafa.core.grit import SAMPLINGS
from lavis_mafa.core.settings import MafaSettings
from lavis_mafa.models.pretrained import local_files
from lavis_mafa.scorers.registry import judge_of

AT_LEAST = {
    **dict.fromkeys(("max_epoch", "batch_size_train", "batch_size_eval", "accum_grad_iters"), 1),
    **dict.fromkeys(("keep_checkpoints", "random_epochs"), 1),
    **dict.fromkeys(("seed", "num_workers", "warmup_steps", "save_every_steps", "k_test", "skip_nearest"), 0),
    **dict.fromkeys(("review_size", "gallery_size"), 0),
}
RATES = ("init_lr", "min_lr", "warmup_lr", "weight_decay")
ON_BAD_IMAGE = ("raise", "replace")


def check_values(cfg: Any) -> None:
    """Every value of a merged config that can be judged without building anything.

    Raises:
        ValueError: naming the key, its value and the allowed ones.
    """
    run = cfg.run
    _check_numbers(run)
    _check_choices(run)
    model_cls = registry.get_model_class(cfg.model.arch)
    if is_ours(model_cls):
        _told("model.mafa", lambda: MafaSettings.from_dict(cfg.model.get("mafa") or {}))
        _check_evaluation(run, cfg.model.arch, getattr(model_cls, "has_itm", True))
    for name, dataset in cfg.datasets.items():
        choice = dataset.get("on_bad_image", "raise")
        if choice not in ON_BAD_IMAGE:
            _refuse(f"datasets.{name}.on_bad_image", choice, " or ".join(ON_BAD_IMAGE))
        if choice == "replace" and run.get("cache_tokens", False):  # a record would keep the tokens of its replacement
            _refuse(f"datasets.{name}.on_bad_image", choice, "raise where run.cache_tokens is true")


def check_mining(cfg: Any) -> None:
    """The values of a config of `python -m lavis_mafa.mine`; settings of their own class say theirs themselves.

    Raises ValueError: naming the key, its value and the allowed ones.
    """
    _check_numbers(cfg.run)
    _check_device(cfg.run)
    for key in ("output_dir", "cache_folder"):
        if cfg.run[key] and Path(str(cfg.run[key])).expanduser().is_file():
            _refuse(f"run.{key}", cfg.run[key], "a folder; this is a file")
    if not cfg.run.output_dir:
        _refuse("run.output_dir", cfg.run.output_dir, "a folder")
    if not isinstance(cfg.run.hide_siblings, bool):
        _refuse("run.hide_siblings", cfg.run.hide_siblings, "true or false")


def _check_evaluation(run: Any, arch: str, has_itm: bool) -> None:
    """What only a dual encoder does, and what it cannot."""
    if run.get("k_test", 0) and not has_itm:
        _refuse("run.k_test", run.k_test, f"0, as {arch} has no matching head to re-rank with")
    if run.get("zero_shot") and has_itm:
        _refuse("run.zero_shot", run.zero_shot, f"null, as {arch} is no model of open_clip (mafa_openclip is)")


def _refuse(key: str, value: Any, allowed: str) -> None:
    raise ValueError(f"{key} is {value!r}: allowed is {allowed}")


def _told(where: str, check: Callable[[], Any]) -> None:
    try:
        check()
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error


def _check_numbers(run: Any) -> None:
    for key, least in AT_LEAST.items():
        value = run.get(key, least)
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            _refuse(f"run.{key}", value, f"a whole number from {least} on")
    for key in RATES:
        value = run.get(key, 0)
        number = _number(value)
        if number is None or not 0 <= number < float("inf"):
            _refuse(f"run.{key}", value, "a number from 0 on")
    quantile = _number(run.get("quantile", 1.0))
    if quantile is None or not 0 <= quantile <= 1:
        _refuse("run.quantile", run.quantile, "a number in [0, 1]")
    beta2 = _number(run.get("beta2", 0.999))
    if beta2 is None or not 0 < beta2 < 1:
        _refuse("run.beta2", run.beta2, "a number between 0 and 1")


def _number(value: Any) -> float | None:
    """YAML 1.1 reads 1e-4 as a string, so LAVIS converts its rates; so do we."""
    try:
        return None if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        return None


def _check_choices(run: Any) -> None:
    for key in ("task", "runner"):
        registered(key, run.get(key), f"run.{key}")
    registered("lr_scheduler", run.get("lr_sched"), "run.lr_sched")
    if run.get("sampling", "grit") not in SAMPLINGS:
        _refuse("run.sampling", run.sampling, " or ".join(SAMPLINGS))
    space = run.get("search_space", "all")
    if space != "all" and (not isinstance(space, int) or isinstance(space, bool) or space < 1):
        _refuse("run.search_space", space, "a number of records from 1 on, or all")
    _check_device(run)
    resume = run.get("resume_ckpt_path")
    if resume and resume != "auto" and not Path(str(resume)).is_file():
        _refuse(
            "run.resume_ckpt_path",
            resume,
            "null, auto (the newest checkpoint in run.output_dir), or an existing checkpoint",
        )


def _check_device(run: Any) -> None:
    if str(run.device).partition(":")[0] not in ("cpu", "cuda"):
        _refuse("run.device", run.device, "auto, cpu or cuda")
    if str(run.device).startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(
            f"run.device is {run.device}, but torch {torch.__version__} sees no GPU: set run.device to auto or cpu"
        )
    number = str(run.device).partition(":")[2]
    if number and not (number.isdigit() and int(number) < torch.cuda.device_count()):
        _refuse("run.device", run.device, f"cuda:N with N below {torch.cuda.device_count()}")
    precision(run)


def refuse_missing(cfg: Any) -> None:
    """ValueError naming every file that the config asks for and this machine lacks."""
    if lacking := missing_files(cfg):
        raise ValueError("files are missing:\n  " + "\n  ".join(lacking))


def missing_files(cfg: Any) -> list[str]:
    """What the config names and this machine lacks, a sentence each, with its key. URLs would be fetched."""
    lacking = [f"{key}: {told}" for key, path in _weights(cfg) if (told := _lacks(path))]
    for name, dataset in cfg.datasets.items():
        for key, path in _data_paths(dataset):
            if not Path(str(path)).expanduser().exists():
                lacking.append(f"datasets.{name}.{key}: nothing at {path}")
    return lacking


def _weights(cfg: Any) -> Iterator[tuple[str, str]]:
    if not is_ours(registry.get_model_class(cfg.model.arch)):
        return
    yield from ((f"model.{key}", path) for key, path in local_files(cfg.model))
    con_d, mafa = cfg.run.get("con_d"), MafaSettings.from_dict(cfg.model.get("mafa") or {})
    if con_d and not cfg.run.evaluate and mafa.asks_scorer:
        yield from ((f"run.con_d.{key}", path) for key, path in judge_of(con_d).files(con_d))


def _lacks(path: str) -> str:
    """A vocabulary may be a folder; everything else is a file, or `package:FILE`."""
    if Path(path).expanduser().is_dir():
        return ""
    try:
        local_file(path)
    except ValueError as error:
        return str(error)
    return ""


def _data_paths(dataset: Any) -> Iterator[tuple[str, str]]:
    if dataset.get("build_info"):
        yield from _lavis_paths(dataset.build_info)
    if dataset.get("images") and isinstance(dataset.images, str):
        yield "images", dataset.images
    for split, files in (dataset.get("annotations") or {}).items():
        for file in [files] if isinstance(files, str) else files:
            yield f"annotations.{split}", file


def _lavis_paths(build_info: Any) -> Iterator[tuple[str, str]]:
    """LAVIS' data sets: their images, and the annotations that no URL gives, below its cache unless absolute."""
    cache = registry.get_path("cache_root")
    if build_info.get("images"):
        yield "build_info.images.storage", str(Path(cache, build_info.images.storage))
    for split, info in (build_info.get("annotations") or {}).items():
        urls, files = ([value] if isinstance(value, str) else value for value in (info.get("url") or [], info.storage))
        for number, file in enumerate(files):
            if not str(urls[number] if number < len(urls) else "").startswith(("http://", "https://")):
                yield f"build_info.annotations.{split}.storage", str(Path(cache, file))


def check_data(cfg: Any, datasets: Mapping[str, Mapping[str, Any]]) -> None:
    """What only the built data sets can tell: their splits, and whether a step finds enough records.

    Raises:
        ValueError: a split that no data set has, or more records a step than there are.
    """
    run = cfg.run
    if len(datasets) != 1:
        raise ValueError(f"datasets: grit_runner plans one record table, not {len(datasets)} ({', '.join(datasets)})")
    ((name, splits),) = datasets.items()
    for key in ("train_splits", "valid_splits", "test_splits"):
        for split in run.get(key) or []:
            if split not in splits:
                _refuse(f"run.{key}", split, f"a split of datasets.{name}: {', '.join(splits)}")
    if run.evaluate or "train" not in splits:
        return
    records, world = len(splits["train"]), int(run.world_size)
    if run.batch_size_train * world > records:
        ranks = f" on each of {world} ranks" if world > 1 else ""
        _refuse(
            "run.batch_size_train",
            run.batch_size_train,
            f"at most {records // world}{ranks}: train has {records} records",
        )
