"""Runs a function on every rank of a gloo group. They are forked from one server that has imported open_clip."""

from __future__ import annotations

import functools
import multiprocessing
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["lavis_mafa.openclip"])


def on_ranks(world: int, folder: Path, function: Callable[..., Any], *args: Any) -> list[Any]:
    """function(rank, world, *args) of every rank, in the order of ranks."""
    store = str(folder / f"store_{world}_{len(list(folder.iterdir()))}")
    job = functools.partial(_on_rank, world, store, function, args)
    with CONTEXT.Pool(world) as pool:
        return pool.map(job, range(world), chunksize=1)


def _on_rank(world: int, store: str, function: Callable[..., Any], args: tuple[Any, ...], rank: int) -> Any:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{store}", rank=rank, world_size=world, timeout=timedelta(seconds=60)
    )
    try:
        return function(rank, world, *args)
    finally:
        dist.destroy_process_group()
