"""Values of `run`, beyond their types: ranges of the schema (common/run_schema.py), names, folders, the device."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from string import Formatter

from omegaconf import DictConfig

from lavis_mafa.common.precision import precision
from lavis_mafa.common.run_schema import Schema
from lavis_mafa.common.schema import allowed_values, text_keys
from lavis_mafa.config.devices import check_device
from lavis_mafa.config.keys import registered


def check_texts(given: DictConfig, schema: Schema) -> None:
    """ValueError where YAML reads a number or true of what a key of `run` takes as text: of 2024_01 it makes 202401."""
    for name in text_keys(schema):
        value = given.get(name)
        if isinstance(value, (bool, int, float)):
            raise ValueError(f"run.{name} is text, and YAML reads {value!r} here: put it in quotes")


def check_folders(run: DictConfig, *names: str) -> None:
    for name in names:
        if name == "output_dir" and not run[name]:
            refuse("run.output_dir", run[name], "a folder")
        path = Path(run[name] or ".")
        if any(part.exists() and not part.is_dir() for part in (path, *path.parents)):
            refuse(f"run.{name}", run[name], "a folder; there is a file in its place")


def normalise_prompt(run: DictConfig) -> None:
    """`{question}` in the prompt of mafa_vqa becomes `{}`, as LAVIS' T5 wants it.

    Raises:
        ValueError: a prompt that has no place for the question, more than one, or another placeholder.
    """
    if run.task != "mafa_vqa" or not run.get("prompt"):
        return
    try:
        places = [place for _, *place in Formatter().parse(run.prompt) if place[0] is not None]
    except ValueError:  # a lone brace
        places = []
    if places not in ([["", "", None]], [["question", "", None]]):
        refuse("run.prompt", run.prompt, "text with one {} or {question} where the question stands, or null for none")
    run.prompt = run.prompt.replace("{question}", "{}")


def refuse(key: str, value: object, allowed: str) -> None:
    raise ValueError(f"{key} is {value!r}: allowed is {allowed}")


def check_ranges(run: DictConfig, schema: Schema) -> None:
    for one in fields(schema):
        value, allowed = run[one.name], one.metadata["allowed"]
        if allowed is not None and value is not None and value not in allowed:
            refuse(f"run.{one.name}", value, allowed_values(schema, one.name))


def check_search_space(run: DictConfig, least: int) -> None:
    space = run.search_space
    if space != "all" and (isinstance(space, str) or space < least):  # a chain of fewer records is no batch
        refuse("run.search_space", space, f"a number of records from {least} on (run.batch_size_train), or all")


def check_run(run: DictConfig) -> None:
    for key in ("task", "runner"):
        registered(key, run.get(key), f"run.{key}")
    registered("lr_scheduler", run.get("lr_sched"), "run.lr_sched")
    check_search_space(run, run.batch_size_train if run.sampling == "grit" else 1)
    check_folders(run, "output_dir", "token_folder")
    check_device(run.device)
    precision(run)
    resume = run.get("resume_ckpt_path")
    if resume and resume != "auto" and not Path(resume).is_file():
        allowed = "null, auto (the newest checkpoint in run.output_dir), or an existing checkpoint"
        refuse("run.resume_ckpt_path", resume, allowed)
