"""Caches of embeddings, neighbours, tokens and scores: one way of naming them, and what of them lies on a disk.

An entry is a file or a folder `KIND_HASH`, where the hash is that of all that its content depends on: images by folder,
name, size and time, captions to the letter, weights, preparation. A hidden note beside it says what it is about; its
time is that of the last use.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from lavis_mafa.common.artifacts import MARKER, atomic_write
from lavis_mafa.common.folders import held, job_of
from lavis_mafa.common.hashing import BYTES, digest_of

JOB = "cache"  # what the folder says that it is (folders.py)
NAME = re.compile(rf"([a-z_]+)_[0-9a-f]{{{2 * BYTES}}}(\.npy|\.npz|\.partial|\.progress)?")
DAY = 24 * 60 * 60


def cache_path(folder: Path, kind: str, content: Iterable[object], suffix: str = ".npy") -> Path:
    """Where an entry is, or will be: folder/KIND_HASH. content: all that it depends on (hashing.digest_of)."""
    return folder / f"{kind}_{digest_of(content)}{suffix}"


def note_use(path: Path, about: str) -> Path:
    """The path, noted as used now. about: for people: of which model and data it is."""
    note = _note(path)
    with suppress(OSError):  # a folder that others filled may be readable alone
        path.parent.mkdir(parents=True, exist_ok=True)
        if note.exists():
            os.utime(note)
        else:
            with atomic_write(note) as file:
                file.write(json.dumps({"about": about}).encode())
    return path


def _note(path: Path) -> Path:
    return path.with_name(f".{path.name.partition('.')[0]}.json")


@dataclass(frozen=True)
class Entry:
    """size: bytes; used: seconds since 1970."""

    path: Path
    kind: str
    about: str
    size: int
    used: float

    @property
    def idle_days(self) -> float:
        """Days since its last use."""
        return (time.time() - self.used) / DAY


def entries(folders: Iterable[Path]) -> Iterator[Entry]:
    """Every entry of the caches in or below the folders; nothing of a folder that this program did not mark as one."""
    for folder in folders:
        for marker in sorted(folder.rglob(MARKER)):
            if job_of(marker.parent) == JOB:
                yield from _entries(marker.parent)


def _entries(folder: Path) -> Iterator[Entry]:
    for path in sorted(folder.iterdir()):
        if name := NAME.fullmatch(path.name):
            note = _note(path)
            used = (note if note.exists() else path).stat().st_mtime
            yield Entry(path, name[1], _about(note), _size(path), used)


def _about(note: Path) -> str:
    try:
        return str(json.loads(note.read_text("utf-8"))["about"])
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return ""


def _size(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


def remove(found: Iterable[Entry]) -> None:
    """Take entries away.

    Raises:
        ValueError: a process writes into their folder now.
    """
    for entry in found:
        with held(entry.path.parent, JOB, "cache"):
            shutil.rmtree(entry.path) if entry.path.is_dir() else entry.path.unlink()
            _note(entry.path).unlink(missing_ok=True)
