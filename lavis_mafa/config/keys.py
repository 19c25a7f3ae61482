"""Names in a config: every key must be one that something reads, else the closest valid one is named.

Valid is what a class says that it reads: the schema of `run` (common/run_schema.py), `config_keys` of our models and
processors, the packaged YAML of a data set. Where LAVIS' own models, builders, tasks and runners are asked for, an
unknown key only warns: they do not say what they read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import fields
from inspect import signature

import lavis_mafa.compat  # noqa: F401  before the first `lavis` import

from lavis.common.registry import registry
from lavis.datasets.builders.base_dataset_builder import BaseDatasetBuilder
from lavis.models.base_model import BaseModel
from omegaconf import DictConfig, OmegaConf
from transformers import BertConfig

from lavis_mafa.common.config_file import SECTIONS, loaded, merged
from lavis_mafa.common.run_schema import Schema
from lavis_mafa.config.checks import check_keys, closest
from lavis_mafa.data.annotations import read_annotations
from lavis_mafa.data.rules import FileRules
from lavis_mafa.data.scenes.dataset import scenes_table
from lavis_mafa.models.pretrained import CHECKPOINT_KEYS
from lavis_mafa.scorers.registry import judge_of, keys_of

SPLIT_KEYS = ("train", "eval")
DATASET_KEYS = ("type", "vis_processor", "text_processor", "on_bad_image", *(one.name for one in fields(FileRules)))
WRITERS = ("mafa_vqa", "mafa_captioning")  # tasks whose answers a language model writes
READ_BY_TASKS = {
    **dict.fromkeys(("prompt", "num_beams", "max_len", "min_len", "length_penalty", "without_image"), WRITERS),
    **dict.fromkeys(("lemmatise", "match"), ("mafa_vqa", "mafa_albef_vqa")),
    **dict.fromkeys(("answer_list", "num_ans_candidates"), ("mafa_albef_vqa",)),
    "references": ("mafa_captioning",),
}
ZERO_SHOT_KEYS = ("images", "templates", "names", "allow_symlinks")


def registered(kind: str, name: object, where: str) -> type:
    """The class LAVIS' registry holds under `name`; `kind`: builder, model, task, runner, processor, lr_scheduler."""
    known = registry.mapping[f"{kind}_name_mapping"]
    if not isinstance(name, str) or name not in known:
        near = closest(name, known)
        raise ValueError(
            f"{where}: there is no {kind} {name!r}; did you mean {near}? Registered are {', '.join(sorted(known))}"
        )
    return known[name]


def is_ours(registered_class: type) -> bool:
    return registered_class.__module__.partition(".")[0] == "lavis_mafa"


def is_lavis_task(name: object) -> bool:
    task = registry.get_task_class(name)
    return task is not None and not is_ours(task)


def check_names(given: DictConfig, schema: Schema) -> None:
    """Every name of a config, before LAVIS merges it: sections, model, data sets, and all keys below them.

    Raises:
        ValueError: naming the key and the closest valid one.
    """
    check_keys(given, SECTIONS, "")
    for section in SECTIONS:
        if not OmegaConf.is_dict(given.get(section)):
            raise ValueError(
                f"the config has no section {section!r}; it needs {', '.join(SECTIONS)}, each with keys below it"
            )
    run, names = given.run, [one.name for one in fields(schema)]
    chosen = {kind: run.get(kind, getattr(schema, kind, None)) for kind in ("task", "runner")}
    strict = all(is_ours(known) for kind, name in chosen.items() if (known := _known(kind, name)))
    check_keys(run, names, "run", strict)
    _check_model(given.model, "model", ())
    if OmegaConf.is_dict(run.get("con_d")):
        check_judge(run.con_d, "run.con_d")
    if OmegaConf.is_dict(run.get("zero_shot")):
        check_keys(run.zero_shot, ZERO_SHOT_KEYS, "run.zero_shot")
    for name, dataset in given.datasets.items():
        if dataset is not None and not OmegaConf.is_dict(dataset):
            raise ValueError(
                f"datasets.{name} is {dataset!r}: allowed is keys with values, or nothing for the defaults"
            )
        _check_dataset(name, dataset or OmegaConf.create({}))


def check_read_by_task(given: Iterable[object], run: DictConfig, schema: Schema) -> None:
    """ValueError for a key of `run` that the user wrote, with a value of their own, and the task does not read."""
    for name in READ_BY_TASKS.keys() & set(given):
        value, readers = run[name], READ_BY_TASKS[name]
        if run.task not in readers and value is not None and value != getattr(schema, name):
            raise ValueError(
                f"run.{name} is {value!r}, which is read by {' and '.join(readers)} alone; run.task is {run.task}: "
                "leave it out"
            )


def _known(kind: str, name: object) -> type | None:
    """None where a command (mine) has no such thing."""
    return registry.mapping[f"{kind}_name_mapping"].get(name) if isinstance(name, str) else None


def _check_model(model: DictConfig, where: str, more: tuple[str, ...]) -> None:
    model_cls: type[BaseModel] = registered("model", model.get("arch"), f"{where}.arch")
    types = model_cls.PRETRAINED_MODEL_CONFIG_DICT
    model_type = model.get("model_type")
    if model_type not in types:
        raise ValueError(f"{where}.model_type is {model_type!r}: {model.arch} has {', '.join(types)}")
    check_keys(model, [*model_keys(model_cls, model_type), *more], where, is_ours(model_cls))
    if model.get("qformer"):
        check_keys(model.qformer, BertConfig().to_dict(), f"{where}.qformer")
    if model.get("preprocess"):
        defaults = loaded(model_cls.default_config_path(model_type)).get("preprocess", {})
        _check_processors(model.preprocess, defaults, f"{where}.preprocess")


def model_keys(model_cls: type[BaseModel], model_type: str) -> list[str]:
    """The keys of `model` that a class reads: ours say so; of LAVIS' own its packaged YAML gives the common ones."""
    keys = getattr(model_cls, "config_keys", None)
    if keys is None:
        keys = (*CHECKPOINT_KEYS, *loaded(model_cls.default_config_path(model_type)).model)
    return ["arch", "model_type", *keys]


def check_judge(section: DictConfig, where: str) -> None:
    """Raises ValueError: a key of a judge's section, or of one of its members, that it does not read."""
    judge = judge_of(section, where)
    keys = keys_of(section, where)
    if judge.is_model:
        _check_model(section, where, keys)
    else:
        check_keys(section, keys, where)
    for number, member in enumerate(section.get("judges") or ()):
        if OmegaConf.is_dict(member):  # else its builder says what is wrong
            check_judge(member, f"{where}.judges.{number}")


def _check_dataset(name: str, dataset: DictConfig) -> None:
    where = f"datasets.{name}"
    builder: type[BaseDatasetBuilder] = registered("builder", name, where)
    for place in ("annotations", "splits", "vis_processor", "text_processor"):
        if dataset.get(place) is not None and not OmegaConf.is_dict(dataset[place]):
            raise ValueError(f"{where}.{place} is {dataset[place]!r}: allowed are keys, one for every split")
    kind = dataset.get("type", "default")
    if kind not in builder.DATASET_CONFIG_DICT:
        raise ValueError(f"{where}.type is {kind!r}; choose one of {', '.join(builder.DATASET_CONFIG_DICT)}")
    packaged = loaded(builder.default_config_path(kind)).datasets[name]
    check_keys(dataset, [*DATASET_KEYS, *packaged], where, is_ours(builder))
    _check_processors(dataset, packaged, where)
    if name == "scenes":
        for split, values in (dataset.get("splits") or {}).items():
            check_keys(values or {}, signature(scenes_table).parameters, f"{where}.splits.{split}")
    if dataset.get("columns"):
        check_keys(dataset.columns, _keywords(read_annotations), f"{where}.columns")


def _keywords(function: Callable[..., object]) -> list[str]:
    return [
        name for name, parameter in signature(function).parameters.items() if parameter.kind is parameter.KEYWORD_ONLY
    ]


def _check_processors(given: DictConfig, packaged: DictConfig, where: str) -> None:
    for section in ("vis_processor", "text_processor"):
        check_keys(given.get(section) or {}, SPLIT_KEYS, f"{where}.{section}")
        for split, values in (given.get(section) or {}).items():
            place = f"{where}.{section}.{split}"
            name = merged((packaged.get(section) or {}).get(split) or {}, values or {}).get("name")
            processor = registered("processor", name, f"{place}.name")
            check_keys(values or {}, processor_keys(processor), place)


def processor_keys(processor: type) -> list[str]:
    """Our processors say what they read; LAVIS' read what their constructors take."""
    return ["name", *getattr(processor, "config_keys", signature(processor).parameters)]
