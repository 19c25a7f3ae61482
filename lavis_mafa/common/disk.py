"""Disks that fill up: room is taken before it is needed, and the error says which disk it is."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

FULL = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "the file would be larger than the system allows (see ulimit -f)",
}
PROBE_BYTES = 1 << 20  # a disk that has no room for so much is full


class DiskFullError(ValueError):
    """A file could not be written for want of room; the message names it and its disk."""


@contextmanager
def full_disk_named(path: Path) -> Iterator[None]:
    """The block writes `path`. Whatever a library makes of a full disk, it is the error below.

    torch raises "unexpected pos", and NumPy an OSError without a number. So the disk is asked.

    Raises:
        DiskFullError: there is no room.
    """
    try:
        yield
    except DiskFullError:
        raise
    except Exception as error:
        if why := _why_full(error, path.parent):
            raise DiskFullError(
                f"{why}: {path} could not be written ({_room(path.parent)}); make room, then start the "
                "same command again"
            ) from error
        raise


def allocate(descriptor: int, size: int) -> None:
    """Takes `size` bytes of disk for a file, so that a memory map of it cannot end in a bus error. Raises OSError."""
    os.posix_fallocate(descriptor, 0, size)


def _why_full(error: Exception, folder: Path) -> str:
    if isinstance(error, OSError) and error.errno in FULL:
        return FULL[error.errno]
    try:
        with tempfile.TemporaryFile(dir=folder) as probe:
            allocate(probe.fileno(), PROBE_BYTES)
    except OSError as refused:
        return FULL.get(refused.errno or 0, "")
    return ""


def _room(folder: Path) -> str:
    """The mount point of a folder, and how much is free there."""
    resolved = folder.resolve()
    mount = next(parent for parent in (resolved, *resolved.parents) if os.path.ismount(parent))
    usage = shutil.disk_usage(resolved)
    return f"{mount}: {usage.free / 1e6:,.0f} of {usage.total / 1e6:,.0f} MB are free"
