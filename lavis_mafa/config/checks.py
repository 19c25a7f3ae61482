"""What is checked of any config, whatever is registered: names of keys, types, ranges and folders. No LAVIS."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ValidationError

from lavis_mafa.common.run_schema import MineRun, Schema
from lavis_mafa.common.schema import allowed_values, text_keys
from lavis_mafa.config.devices import check_device
from lavis_mafa.data.rules import FileRules


def closest(name: object, valid: Iterable[str]) -> str:
    return difflib.get_close_matches(str(name), [str(key) for key in valid], n=1, cutoff=0.0)[0]


def check_keys(given: Mapping[str, object], valid: Iterable[str], where: str, strict: bool = True) -> None:
    """ValueError for the first key of `given` outside `valid`; not strict: a warning."""
    valid = [str(key) for key in valid]
    for key in given:
        if str(key) in valid:
            continue
        name, near = (f"{where}.{key}", f"{where}.{closest(key, valid)}") if where else (str(key), closest(key, valid))
        if strict:
            raise ValueError(f"unknown key {name}: did you mean {near}?")
        logging.warning("lavis_mafa has no key %s (the closest is %s); it is passed to LAVIS unchanged", name, near)


def typed_run(run: DictConfig, schema: Schema) -> DictConfig:
    """`run` over the defaults of the schema, which refuses a value of another type."""
    typed: DictConfig = OmegaConf.structured(schema)
    OmegaConf.set_struct(typed, False)  # LAVIS' own tasks read keys that the schema has not
    given = OmegaConf.to_container(run)
    assert isinstance(given, dict)
    for name, value in given.items():
        try:
            typed.merge_with({name: value})
        except (ValidationError, TypeError) as error:  # TypeError: a list where keys are due
            raise ValueError(wrong_type(str(name), value, schema)) from error
    return typed


def wrong_type(name: str, value: object, schema: Schema) -> str:
    if name not in {one.name for one in fields(schema)}:  # OmegaConf does not name a list that a ${…} stands for
        return f"run has {value!r} where a list or keys are due: write them out in place of ${{…}}"
    return f"run.{name} is {value!r}: allowed is {allowed_values(schema, name)}"


def refuse(key: str, value: object, allowed: str) -> None:
    raise ValueError(f"{key} is {value!r}: allowed is {allowed}")


def check_texts(given: DictConfig, schema: Schema) -> None:
    """ValueError where YAML reads a number or true of what a key of `run` takes as text: of 2024_01 it makes 202401."""
    for name in text_keys(schema):
        value = given.get(name)
        if isinstance(value, (bool, int, float)):
            raise ValueError(f"run.{name} must be text, but YAML reads it as {value!r}: put it in quotes")


def check_folders(run: DictConfig, *names: str) -> None:
    for name in names:
        if name == "output_dir" and not run[name]:
            refuse("run.output_dir", run[name], "a folder")
        path = Path(run[name] or ".")
        if any(part.exists() and not part.is_dir() for part in (path, *path.parents)):
            refuse(f"run.{name}", run[name], "a folder; there is a file in its place")


def check_ranges(run: DictConfig, schema: Schema) -> None:
    for one in fields(schema):
        value, allowed = run[one.name], one.metadata["allowed"]
        if allowed is not None and value is not None and value not in allowed:
            refuse(f"run.{one.name}", value, allowed_values(schema, one.name))


def check_search_space(run: DictConfig, least: int) -> None:
    space = run.search_space
    if space != "all" and (isinstance(space, str) or space < least):  # a chain of fewer records is no batch
        refuse("run.search_space", space, f"a number of records from {least} on (run.batch_size_train), or all")


def check_mining(cfg: DictConfig) -> None:
    """The values of a config of `python -m lavis_mafa.mine`; settings of their own class say theirs themselves.

    Raises ValueError: naming the key, its value and the allowed ones.
    """
    check_ranges(cfg.run, MineRun)
    names = list(cfg.run.retrievers)
    if not names or len({*names}) < len(names) or not {*names} <= {"model", "judge"}:
        refuse("run.retrievers", names, "[model], [judge], or both")
    if cfg.run.target_precision:
        if cfg.run.test_set:
            refuse("run.test_set", True, "false with run.target_precision: the two need labels of different pairs")
        if cfg.run.high != MineRun.high:
            refuse("run.high", cfg.run.high, "its default where run.target_precision chooses the bound")
        check_search_space(cfg.run, cfg.run.batch_size_train)
    check_device(cfg.run.device)
    check_folders(cfg.run, "output_dir", "cache_folder")
    check_image_rules(cfg)


def check_image_rules(cfg: DictConfig) -> None:
    for name, dataset in cfg.datasets.items():
        with named(f"datasets.{name}"):
            FileRules.of(dataset)


@contextmanager
def named(where: str) -> Iterator[None]:
    """Errors of a value that checks itself, with its key in front."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
