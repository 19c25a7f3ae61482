"""Files that are whole or absent: atomic writing, reading that names a torn file, and the check whose file it is."""

import json
import os
import re
import shutil
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import IO, BinaryIO, Literal
from zipfile import BadZipFile

import numpy as np
from safetensors import SafetensorError

from lavis_mafa.common.disk import full_disk_named
from lavis_mafa.common.files import mistaken

HOST = socket.gethostname()
MARKER = ".lavis_mafa"  # in every folder that this program wrote
# What NumPy, JSON, zip, Parquet, torch and safetensors raise of a file that is cut off, damaged or of another kind.
UNREADABLE = (OSError, ValueError, LookupError, TypeError, EOFError, RuntimeError, BadZipFile, SafetensorError)


@contextmanager
def atomic_write(path: Path) -> Iterator[BinaryIO]:
    """Opens a temporary file beside `path`; it takes the place of `path` only once it is on disk in full.

    Raises:
        DiskFullError: there is no room for it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{_writer()}.tmp")
    temporary.unlink(missing_ok=True)  # of a dead process of our number; or a link, whose target would be written to
    try:
        with full_disk_named(path), open(temporary, "xb") as file:
            yield file
            sync(file)
        os.replace(temporary, path)
        sync_path(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """Makes a new folder beside `folder`; once it is filled, it takes the place of what was written there before.

    Raises:
        ValueError: `folder` holds what this program did not write.
        DiskFullError: there is no room for it.
    """
    if folder.exists() and not (folder / MARKER).exists() and any(folder.iterdir()):
        raise ValueError(f"{folder} was not written by this program and would be replaced: move it away")
    new, old = (folder.with_name(f"{folder.name}.{_writer()}.{part}") for part in ("new", "old"))
    try:
        new.mkdir(parents=True)
        (new / MARKER).touch()
        with full_disk_named(folder):
            yield new
            for path in (*new.rglob("*"), new):
                sync_path(path)
        if folder.exists():
            folder.rename(old)
        new.rename(folder)
        sync_path(folder.parent)
    finally:
        for leftover in (new, old):
            shutil.rmtree(leftover, ignore_errors=True)


def _writer() -> str:
    """Who writes, in the name of what is not yet whole: a process of this host, which may share the folder."""
    return f"lavis_mafa-{HOST}-{os.getpid()}"


def sweep(folder: Path) -> None:
    """Takes away what killed processes of this host left of the writers above; a folder moved aside returns.

    Other hosts' processes may be alive: what they left stays.
    """
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        left = re.fullmatch(rf"(.+)\.lavis_mafa-{re.escape(HOST)}-(\d{{1,9}})\.(tmp|new|old)", path.name)
        if left is None or is_running(int(left[2])):
            continue
        if left[3] == "old" and not path.with_name(left[1]).exists():
            path.rename(path.with_name(left[1]))
        elif path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def is_running(process: int) -> bool:
    """Whether another process of this host has the number."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return process != os.getpid()  # a number comes again: what bears ours was not written by us, who just begin


def sync(file: IO[bytes] | IO[str]) -> None:
    """Flushes a file down to the disk."""
    file.flush()
    os.fsync(file.fileno())


def sync_path(path: Path) -> None:
    """A file, or a folder: a rename outlives a power cut only once its folder is on disk too."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def reading(path: Path, what: str, remedy: str = "") -> Iterator[None]:
    """The block that reads `path`, which should be a `what`.

    Raises:
        ValueError: the file is missing, damaged or of another kind, with the remedy.
    """
    if not path.exists():
        raise ValueError(f"{path} is missing. {remedy}".rstrip())
    try:
        yield
    except UNREADABLE as error:
        if path.is_file() and (mistake := mistaken(path)):
            raise ValueError(f"{path} {mistake}. {remedy}".rstrip()) from error
        raise ValueError(f"{path} is damaged or not a readable {what} ({error}). {remedy}".rstrip()) from error


def mapped(path: Path, remedy: str, mode: Literal["r", "r+"] = "r") -> np.memmap:
    """A .npy file, memory-mapped. Raises ValueError as `reading` does: its header tells a file that is cut off."""
    with reading(path, "array", remedy):
        array: np.memmap = np.load(path, mmap_mode=mode)
        return array


def json_lines(path: Path) -> list[object]:
    """The rows of a JSONL file that grows, less the line that a killed process left unfinished; no file, no rows."""
    rows = []
    for line in path.read_bytes().split(b"\n")[:-1] if path.exists() else ():
        with suppress(ValueError, RecursionError):
            rows.append(json.loads(line))
    return rows


def json_bytes(
    value: object,
    indent: int | None = None,
    default: Callable[[object], object] | None = None,
    allow_nan: bool = True,
) -> bytes:
    """json.dumps, with the same keywords, in UTF-8, which cannot hold half a character (a lone surrogate of UTF-16).

    Where there is one, all that is not ASCII is written as escapes, which give back what was read.
    """
    dumps = partial(json.dumps, value, indent=indent, default=default, allow_nan=allow_nan)
    try:
        return dumps(ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return dumps().encode()


def check_header(path: Path, found: Mapping[str, object], expected: Mapping[str, object], remedy: str) -> None:
    """Raises ValueError naming every field in which the file's header differs from what this run expects."""
    wrong = [
        f"{key} is {found.get(key)!r}, expected {value!r}" for key, value in expected.items() if found.get(key) != value
    ]
    if wrong:
        raise ValueError(f"{path} belongs to another run: {'; '.join(wrong)}. {remedy}")
