"""Run checkpoints: whole or not there, tensors and plain types only, and an error for what belongs to another run."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lavis_mafa.core.artifacts import atomic_write
from lavis_mafa.models.weights import read_torch

FORMAT = 1
_NAME = re.compile(r"checkpoint_e(\d+)_s(\d+)\.pth$")


def trained_state(model: nn.Module) -> dict[str, torch.Tensor]:
    """The state_dict less a frozen tower that its own file gives; so LAVIS' checkpoints do, and LAVIS loads ours."""
    tower = ("visual_encoder.",) if getattr(model, "tower_has_weights", False) else ()
    return {key: value for key, value in model.state_dict().items() if not key.startswith(tower)}


def save(folder: Path, content: Mapping[str, Any], keep: int) -> Path:
    """Write checkpoint_e{epoch}_s{step}.pth under a temporary name, rename it, and drop all but the newest `keep`."""
    path = folder / f"checkpoint_e{content['epoch']:04d}_s{content['step']:07d}.pth"
    write(path, {"format": FORMAT, **content})
    for old in list_checkpoints(folder)[:-keep]:
        old.unlink()
    return path


def write(path: Path, content: Mapping[str, Any]) -> None:
    with atomic_write(path) as file:
        torch.save(dict(content), file)


def list_checkpoints(folder: Path) -> list[Path]:
    """The folder's checkpoints, oldest first, by (epoch, step)."""
    found = [
        (tuple(map(int, match.groups())), path)
        for path in folder.glob("checkpoint_e*.pth")
        if (match := _NAME.search(path.name))
    ]
    return [path for _, path in sorted(found)]


def load(path: Path, expected: Mapping[str, Any]) -> dict[str, Any]:
    """Read a checkpoint and hold it against this run.

    Raises:
        ValueError: a torn or foreign file, or one of another data set, vocabulary, or world size, naming what differs
            and the newest whole checkpoint beside it.
    """
    try:
        content = read_torch(path)
    except ValueError as error:
        raise ValueError(f"{error}; {_whole_instead(path)}") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ValueError(
            f"{path} is no run checkpoint of format {FORMAT}; to start from weights alone set model.pretrained to it"
        )
    differing = [
        f"{name}: the checkpoint has {content.get(name)!r}, this run {value!r}"
        for name, value in expected.items()
        if content.get(name) != value
    ]
    if differing:
        raise ValueError(f"{path} belongs to another run ({'; '.join(differing)}); choose another run.output_dir")
    logging.info("resuming from %s: epoch %d, step %d", path, content["epoch"], content["step"])
    return content


def _whole_instead(path: Path) -> str:
    for other in reversed(list_checkpoints(path.parent)):
        try:
            if other != path and isinstance(read_torch(other), dict):
                return f"the newest whole checkpoint is {other}: set run.resume_ckpt_path to it"
        except ValueError:
            continue
    return "no whole checkpoint is left beside it: start anew in another run.output_dir"
