"""Folders of this program: whose they are, and which process writes there now.

A folder holds one file, `.lavis_mafa`: the job that writes there, and the host and process that hold it now. The file
is locked (flock) for as long as a job runs, and the system unlocks it when the process dies, however it dies.
"""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypedDict

from lavis_mafa.common.artifacts import HOST, MARKER
from lavis_mafa.common.mounts import local_lock_option

# What `flock` says where a file system has no locks: Lustre mounted without -o flock, NFS without lockd.
NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL)
_held: dict[Path, int] = {}  # resolved folder → descriptor


class Holder(TypedDict, total=False):
    """What the file says."""

    job: str
    host: str
    process: int
    started: str


def job_of(folder: Path) -> str | None:
    """The job whose folder this is (train, evaluate, mine, cache), "" where that cannot be read; None: not ours."""
    return _read(folder).get("job", "") if (folder / MARKER).exists() else None


@contextmanager
def held(folder: Path, job: str, key: str, writes: Sequence[str] = ()) -> Iterator[None]:
    """While the block runs, the folder, made where it is missing, is this process' alone.

    Args:
        job: its name; one folder serves one kind of job.
        key: the setting that names the folder, for messages.
        writes: patterns of the names that the job writes, and so replaces.

    Raises:
        ValueError: another process holds the folder, it is that of another job, it has files of somebody else where
            the job writes, or a link to a file outside of it; or nothing can be written there.
    """
    folder = folder.resolve()
    if folder in _held:
        yield
        return
    descriptor = _opened(folder, job, key, writes)
    try:
        _lock(descriptor, folder, key)
        _write(descriptor, job)
        _held[folder] = descriptor
        yield
    finally:
        _held.pop(folder, None)
        os.close(descriptor)


def _opened(folder: Path, job: str, key: str, writes: Sequence[str]) -> int:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        refuse_foreign(folder, job, key, writes)
        _refuse_links(folder, key)
        return os.open(folder / MARKER, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    except OSError as error:
        raise ValueError(f"{key}: {folder} cannot be written to ({error})") from error


def refuse_foreign(folder: Path, job: str, key: str, writes: Sequence[str]) -> None:
    """ValueError: the folder is that of another job, or has files of somebody else where the job writes (`held`)."""
    owner = job_of(folder)
    if owner is None:
        found = sorted({path.name for pattern in writes for path in folder.glob(pattern)})
        if found:
            raise ValueError(
                f"{key}: {folder} contains {', '.join(found)}, which this program did not write and would replace; "
                "choose another folder, or move them away"
            )
    elif owner not in ("", job):
        raise ValueError(f"{key}: {folder} contains the results of `{owner}`; choose another folder for `{job}`")


def _refuse_links(folder: Path, key: str) -> None:
    """A folder of somebody else could hold `steps.jsonl` as a link to a file of the user's, which would be written to.

    Links to folders are the user's own way to another disk, and stay.
    """
    for place, _, names in os.walk(folder):
        for path in (Path(place, name) for name in names):
            if path.is_symlink() and not path.resolve().is_relative_to(folder):
                raise ValueError(
                    f"{key}: {path} is a link to a file outside of the folder, {os.readlink(path)}, which would be "
                    "written to: remove the link, or choose another folder"
                )


def _lock(descriptor: int, folder: Path, key: str) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        holder = _read(folder)
        who = f"process {holder.get('process', '?')} on {holder.get('host', '?')}"
        since = f"{holder.get('job', 'a job')}, since {holder.get('started', '?')}"
        message = f"{key}: {folder} is in use by {who} ({since}); wait until it ends, or choose another folder"
        raise ValueError(message) from error
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise ValueError(f"{key}: {folder} cannot be locked ({error}); choose a folder on another disk") from error
        logging.warning(
            "%s: the file system of %s has no locks (%s), so a second process that writes there would not be noticed: "
            "start only one",
            key,
            folder,
            error.strerror,
        )
    else:
        if option := local_lock_option(folder):
            logging.warning(
                "%s: the file system of %s is mounted with %s, so a process of another machine that writes there would "
                "not be noticed: start only one",
                key,
                folder,
                option,
            )


def _write(descriptor: int, job: str) -> None:
    holder: Holder = {"job": job, "host": HOST, "process": os.getpid(), "started": time.strftime("%Y-%m-%d %H:%M:%S")}
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, json.dumps(holder).encode(), 0)


def _read(folder: Path) -> Holder:
    try:
        found: Holder = json.loads((folder / MARKER).read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _let_go() -> None:
    """A forked child (a loader's worker) has the descriptors too: it would hold the lock after its parent's death."""
    for descriptor in _held.values():
        os.close(descriptor)
    _held.clear()


os.register_at_fork(after_in_child=_let_go)
