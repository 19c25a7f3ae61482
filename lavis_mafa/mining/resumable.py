"""Arrays computed part by part on disk; a killed run continues after the last whole part."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lavis_mafa.common.artifacts import atomic_write, mapped, sync_path
from lavis_mafa.common.disk import DiskFullError, allocate, full_disk_named
from lavis_mafa.common.progress import progress_bar

Rows = NDArray[np.floating]
REMEDY = "Delete it, and it is computed anew."


def filled(path: Path, n: int, part: int, compute: Callable[[list[range]], Iterator[Rows]], what: str) -> Rows:
    """An array at a path, memory-mapped, with the rows computed that it lacks.

    Parts start at multiples of `part` in an unbroken run and in a resumed one, so that both give the same numbers.

    Args:
        path: the file; its name must say what the rows depend on.
        n: rows.
        part: rows that are computed at a time.
        compute: ranges of rows → these rows, in order.
        what: the rows are, for the progress bar.

    Raises:
        ValueError: rows that are not finite, or a damaged file.
    """
    if not path.exists():
        partial, progress = path.with_suffix(".partial"), path.with_suffix(".progress")
        array, done = _reopened(partial, progress)
        with progress_bar(total=n, initial=done, desc=what, unit_scale=True) as bar:
            parts = [range(start, min(start + part, n)) for start in range(done, n, part)]
            for (start, *_), rows in zip(parts, compute(parts), strict=True):
                if not np.isfinite(rows).all():
                    raise ValueError(
                        f"{what} {start} to {start + len(rows)} are not finite: check the weights, or use float32"
                    )
                if array is None:
                    path.parent.mkdir(parents=True, exist_ok=True)
                    progress.unlink(missing_ok=True)
                    array = _empty(partial, rows.dtype, (n, *rows.shape[1:]))
                array[start : start + len(rows)] = rows
                array.flush()
                with atomic_write(progress) as file:
                    file.write(str(start + len(rows)).encode())
                bar.update(len(rows))
        sync_path(partial)
        os.replace(partial, path)
        sync_path(path.parent)
        progress.unlink(missing_ok=True)
    return mapped(path, REMEDY)


def _empty(path: Path, dtype: np.dtype[np.floating], shape: tuple[int, ...]) -> np.memmap:
    """A new array on disk, with room for all of it."""
    try:
        with full_disk_named(path):
            array: np.memmap = np.lib.format.open_memmap(path, "w+", dtype, shape)
            with open(path, "r+b") as file:
                allocate(file.fileno(), path.stat().st_size)
            return array
    except DiskFullError:
        path.unlink(missing_ok=True)
        raise


def _reopened(partial: Path, progress: Path) -> tuple[np.memmap | None, int]:
    if not (partial.exists() and progress.exists()):
        return None, 0
    return mapped(partial, REMEDY, "r+"), int(progress.read_text())
