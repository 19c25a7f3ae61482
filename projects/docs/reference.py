"""The reference pages, made from the schema, the packaged YAMLs and the docstrings."""

from __future__ import annotations

import json
import re
from dataclasses import MISSING, Field, fields
from pathlib import Path

from lavis_mafa.common.run_schema import CommonRun, MineRun, TrainRun
from lavis_mafa.common.schema import allowed_values

PACKAGE = Path(__file__).resolve().parents[2] / "lavis_mafa"
API = ("core", "openclip", "mining", "scorers")  # what a program imports, beside the commands


def pages() -> dict[str, str]:
    """Page of the site → its Markdown."""
    return {
        "reference/run.md": run_keys(),
        "reference/yaml.md": packaged_yamls(),
        **{f"reference/api/{package}.md": api(package) for package in API},
    }


def run_keys() -> str:
    """Every key of `run`: what it takes, its default, its meaning."""
    common = {each.name for each in fields(CommonRun)}
    parts = [
        "# Keys of `run`\n\nA key that is not here is an error that names the closest one.",
        _table("Training, evaluation and mining", TrainRun, [each for each in fields(TrainRun) if each.name in common]),
        _table("Training and evaluation", TrainRun, [each for each in fields(TrainRun) if each.name not in common]),
        _table("Mining", MineRun, [each for each in fields(MineRun) if each.name not in common]),
    ]
    return "\n\n".join(parts) + "\n"


def _table(title: str, schema: type, keys: list[Field[object]]) -> str:
    head = [f"## {title}\n", "| key | takes | default | meaning |", "| --- | --- | --- | --- |"]
    return "\n".join(head + [_row(key, allowed_values(schema, key.name)) for key in keys])


def _row(key: Field[object], allowed: str) -> str:
    default = [] if key.default is MISSING else key.default
    shown = default if isinstance(default, str) and default else json.dumps(default)
    return f"| `{key.name}` | {_cell(allowed)} | `{shown}` | {_cell(key.metadata['meaning'])} |"


def _cell(text: str) -> str:
    return re.sub(r"([|{}<>])", r"\\\1", text)


def packaged_yamls() -> str:
    """The YAMLs that a config is merged over, with their comments."""
    parts = [
        "# Packaged YAMLs\n\nThe keys of a data set and of a model type, with their defaults. A config overrides them."
    ]
    for kind in ("datasets", "models"):
        parts.append(f"## {kind.capitalize()}")
        for file in sorted((PACKAGE / "configs" / kind).glob("*.yaml")):
            parts.append(f"### {file.stem}\n\n```yaml\n{file.read_text('utf-8').strip()}\n```")
    return "\n\n".join(parts) + "\n"


def api(package: str) -> str:
    """The public names of a package, module by module."""
    folder = PACKAGE / package
    modules = [file.stem for file in sorted(folder.glob("*.py")) if not file.stem.startswith("_")]
    return (
        "\n\n".join([f"# lavis_mafa.{package}", *(f"## {each}\n\n::: lavis_mafa.{package}.{each}" for each in modules)])
        + "\n"
    )
