"""Run checkpoints: whole or not there, tensors and plain types only, and an error for what belongs to another run."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypedDict, cast
from zipfile import BadZipFile, ZipFile

import torch
from torch import Tensor

from lavis_mafa.common.artifacts import atomic_write, reading
from lavis_mafa.common.formats import OldOutputError, check_format, header
from lavis_mafa.core.connections import Committed
from lavis_mafa.models.weights import read_torch
from lavis_mafa.runners.image_files import ImageStamp

OLD = (
    "finish the run with the version that wrote it, or start in an empty run.output_dir with model.pretrained set to "
    "this file"
)
_NAME = re.compile(r"checkpoint_e(\d+)_s(\d+)\.pth$")


class Stored(TypedDict, total=False):
    """What a rank's stores hold at a commit; None where nothing is stored."""

    embeddings: dict[str, int] | None
    connections: Committed | None
    bad_records: list[int]  # whose image the rank could not read


class BestState(TypedDict):
    epoch: int
    value: float


class Changed(TypedDict):
    """What a resume changed, and where: the steps before it were trained with the old values."""

    epoch: int
    step: int
    settings: dict[str, dict[str, object]]


class Learned(TypedDict, total=False):
    """What training changes: state dicts by part, and the config that it was trained by."""

    model: dict[str, Tensor]
    optimizer: dict[str, object]
    scaler: dict[str, object] | None
    best: BestState
    config: Mapping[str, object]
    changes: list[Changed]
    threads: int
    images: ImageStamp | None
    teacher: dict[str, Tensor] | None


class Checkpoint(Learned):
    """A checkpoint as read; beside this it has the values that it must share with the run (RunState.expected)."""

    epoch: int
    step: int
    stores: list[Stored]  # by rank


Check = Callable[[Checkpoint], None]


def save(folder: Path, epoch: int, step: int, content: Mapping[str, object], keep: int) -> Path:
    """Write checkpoint_e{epoch}_s{step}.pth under a temporary name, rename it, and drop all but the newest `keep`."""
    path = folder / f"checkpoint_e{epoch:04d}_s{step:07d}.pth"
    write(path, {**header("checkpoint"), **content, "epoch": epoch, "step": step})
    for old in list_checkpoints(folder)[:-keep]:
        old.unlink()
    return path


def write(path: Path, content: Mapping[str, object]) -> None:
    with atomic_write(path) as file:
        torch.save(dict(content), file)


def list_checkpoints(folder: Path) -> list[Path]:
    """The folder's checkpoints, oldest first, by (epoch, step)."""
    return sorted((path for path in folder.glob("checkpoint_e*.pth") if _NAME.search(path.name)), key=_place)


def _place(path: Path) -> tuple[int, ...]:
    """(epoch, step) that a checkpoint's name says."""
    match = _NAME.search(path.name)
    assert match is not None
    return tuple(map(int, match.groups()))


def choose(folder: Path, asked: str | None) -> Path | None:
    """The checkpoint that run.resume_ckpt_path asks for; None: the run starts anew.

    Raises:
        ValueError: the folder holds a run and none is asked for, or the one asked for lies in another folder.
    """
    found = list_checkpoints(folder)
    if asked == "auto":
        return found[-1] if found else None
    if not asked and found:
        raise ValueError(
            f"run.output_dir {folder} already contains a run; set run.resume_ckpt_path: auto to continue it, or "
            "choose another folder"
        )
    if asked and Path(asked).resolve().parent != folder:
        raise ValueError(
            f"run.resume_ckpt_path {asked} is not in run.output_dir {folder}, which must contain its plan and stores; "
            "set run.output_dir to its folder, or model.pretrained to the file to load its weights only"
        )
    return Path(asked).resolve() if asked else None


def load(path: Path, expected: Mapping[str, object], check_files: Check) -> Checkpoint:
    """Read a checkpoint and hold it, and the files it names, against this run.

    check_files: raises ValueError where the content names a plan or a store that is gone, torn or foreign.

    Raises:
        OldOutputError: another version wrote it.
        ValueError: a torn or foreign file, or one of another data set, vocabulary, scorer or world size, naming what
            differs and the newest checkpoint beside it that is whole and of this run.
    """
    try:
        content = _fitting(path, expected, check_files)
    except OldOutputError:
        raise
    except ValueError as error:
        raise ValueError(f"{error}; {_whole_instead(path, expected, check_files)}") from error
    logging.info("resuming from %s: epoch %d, step %d", path, content["epoch"], content["step"])
    return content


def drop_later(folder: Path, epoch: int, step: int) -> None:
    """Delete the checkpoints after (epoch, step): a run that goes on from there drops the store files they name."""
    for later in list_checkpoints(folder):
        if _place(later) > (epoch, step):
            logging.warning("deleting %s: it is later than the checkpoint that this run resumes from", later)
            later.unlink()


def _fitting(path: Path, expected: Mapping[str, object], check_files: Check) -> Checkpoint:
    content = read_torch(path)
    if not isinstance(content, dict) or "format" not in content:
        raise ValueError(f"{path} is not a checkpoint of a run; to start from weights alone set model.pretrained to it")
    check_format(path, "checkpoint", content, OLD)
    _check_sums(path)
    differing = [
        f"{name}: the checkpoint has {content.get(name)!r}, this run {value!r}"
        for name, value in expected.items()
        if content.get(name) != value
    ]
    if differing:
        raise ValueError(f"{path} belongs to another run ({'; '.join(differing)})")
    found = cast(Checkpoint, content)
    check_files(found)
    return found


def _check_sums(path: Path) -> None:
    """torch itself does not look at the checksums of the archive that its file is."""
    with reading(path, "torch checkpoint"), ZipFile(path) as archive:
        if damaged := archive.testzip():
            raise BadZipFile(f"{damaged} in it is damaged")


def _whole_instead(path: Path, expected: Mapping[str, object], check_files: Check) -> str:
    for other in reversed(list_checkpoints(path.parent)):
        try:
            if other != path and _fitting(other, expected, check_files):
                return f"the newest intact checkpoint is {other}: set run.resume_ckpt_path to it"
        except ValueError:
            continue
    return "no other checkpoint there is intact and belongs to this run: choose another run.output_dir to start over"
