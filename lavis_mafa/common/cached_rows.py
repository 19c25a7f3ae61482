"""Rows computed once and kept on disk: rank 0 computes those that are not there yet, then every rank maps the file."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NoReturn

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from lavis_mafa.common.artifacts import atomic_write, mapped
from lavis_mafa.common.cache import JOB, cache_path, note_use
from lavis_mafa.common.disk import allocate
from lavis_mafa.common.folders import held
from lavis_mafa.common.progress import progress_bar
from lavis_mafa.common.ranks import barrier, is_main_process


def cached_rows(
    folder: Path,
    name: str,
    content: Iterable[object],
    n_rows: int,
    compute: Callable[[], Iterable[Tensor]],
    remedy: str,
    about: str = "",
) -> NDArray[np.float16]:
    """(n_rows, …) float16, memory-mapped from `folder`/{name}_{hash of content}.npy. Called by every rank.

    Args:
        content: all that the rows depend on (common.hashing.digest_of).
        compute: parts (n, …) of the rows in their order; called by rank 0 alone, without gradients.
        remedy: what the user can do where a value leaves float16's range.
        about: whose rows they are, for `lavis-mafa cache`.

    Raises:
        ValueError: such a value, or a torn file.
    """
    path = cache_path(folder, name, content)
    if is_main_process() and not path.exists():
        held_folder = held(folder, JOB, "the folder of cached rows")  # only to write: whole files are shared
        with held_folder, torch.no_grad(), progress_bar(total=n_rows, desc=name, unit="row") as bar:
            _write(path, n_rows, compute(), remedy, bar)
        logging.info("%s: %d rows in %s (%.0f MB)", name, n_rows, path, path.stat().st_size / 1e6)
    if is_main_process():
        note_use(path, about)
    barrier()
    return mapped(path, "Delete it, and it is computed anew.")


def _write(path: Path, n_rows: int, parts: Iterable[Tensor], remedy: str, bar: tqdm[NoReturn]) -> None:
    """One part is in memory at a time."""
    row = 0
    with atomic_write(path) as file:
        for part in parts:
            rows = part.half().cpu().numpy()
            if not np.isfinite(rows).all():
                raise ValueError(f"rows {row} to {row + len(rows)} of {path.name} leave float16's range; {remedy}")
            if not file.tell():
                header = {"descr": "<f2", "fortran_order": False, "shape": (n_rows, *rows.shape[1:])}
                np.lib.format.write_array_header_1_0(file, header)
                file.flush()
                allocate(file.fileno(), file.tell() + n_rows * rows[0].nbytes)  # now, not after hours
            file.write(rows.tobytes())
            row += len(rows)
            bar.update(len(rows))
        assert row == n_rows, f"{row} rows came for {n_rows}"
