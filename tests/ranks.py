"""Runs a function on every rank of a gloo group. They are forked from one server that has imported the package."""

from __future__ import annotations

import functools
import multiprocessing
import os
import pickle
import socket
import sys
import traceback
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

LIMIT_S = 600  # after which ranks that wait for each other are an error
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    [
        "lavis_mafa.openclip",
        "lavis_mafa.datasets.pairs",
        "lavis_mafa.tasks.pretrain",
        "lavis_mafa.runners.grit",
        "lavis.common.optims",
    ]
)


def on_ranks(world: int, folder: Path, function: Callable[..., Any], *args: Any) -> list[Any]:
    """function(rank, world, *args) of every rank, in the order of ranks."""
    store = str(folder / f"store_{world}_{len(list(folder.iterdir()))}")
    return _map(world, functools.partial(_on_rank, world, store, function, args))


def train_on_ranks(world: int, *arguments: str, **more: str) -> None:
    """`python -m lavis_mafa.train ARGUMENTS…` on every rank, as torchrun starts it; `more`: environment variables."""
    as_torchrun(world, _train, arguments, more)


def as_torchrun(world: int, function: Callable[..., Any], *args: Any) -> list[Any]:
    """function(*args) of every rank, in the order of ranks, in torchrun's environment; it makes the group itself."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return _map(world, functools.partial(_as_torchrun, world, port, function, args))


def _map(world: int, job: Callable[[int], Any]) -> list[Any]:
    """The first rank that fails ends all, as under torchrun."""
    with CONTEXT.Pool(world) as pool:
        found = pool.imap_unordered(functools.partial(_numbered, job), range(world))
        values = sorted((found.next(LIMIT_S) for _ in range(world)), key=lambda pair: pair[0])
        pool.close()
        pool.join()  # or a rank that ignores SIGTERM, with which a pool is terminated, would hold up its end
    return [value for _, value in values]


def _numbered(job: Callable[[int], Any], rank: int) -> tuple[int, Any]:
    try:
        return rank, job(rank)
    except Exception as error:
        try:
            pickle.loads(pickle.dumps(error))
        except Exception:  # it would not reach the pool, which then waits for ever
            raise RuntimeError(f"rank {rank}: {traceback.format_exc()}") from None
        raise


def _on_rank(world: int, store: str, function: Callable[..., Any], args: tuple[Any, ...], rank: int) -> Any:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{store}", rank=rank, world_size=world, timeout=timedelta(seconds=60)
    )
    try:
        return function(rank, world, *args)
    finally:
        dist.destroy_process_group()


def _as_torchrun(world: int, port: int, function: Callable[..., Any], args: tuple[Any, ...], rank: int) -> Any:
    torch.set_num_threads(1)
    ranks = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in ranks.items()})
    try:
        return function(*args)
    except SystemExit as end:
        raise RuntimeError(f"rank {rank}: {end.code}") from None
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def _train(arguments: tuple[str, ...], more: dict[str, str]) -> None:
    from lavis_mafa.train import main

    os.environ.update(more)
    sys.argv = ["train", *arguments]
    main()
