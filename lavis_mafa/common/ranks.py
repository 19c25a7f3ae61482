"""What the ranks of a run do together."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

import torch.distributed as dist

T = TypeVar("T")
# How long a rank waits for another: rank 0 plans and caches tokens alone. A dead one is seen at once, by the launcher.
PATIENCE = timedelta(hours=1)
GRACE_S = 5.0


def get_rank() -> int:
    """This process's number among the ranks of the run; 0 without a process group."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def get_world_size() -> int:
    """How many ranks the run has; 1 without a process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def is_main_process() -> bool:
    return get_rank() == 0


def barrier() -> None:
    if get_world_size() > 1:
        dist.barrier()


def shard(n: int) -> range:
    """This rank's share of n things; the shares of all ranks, in the order of ranks, are the n things, each once."""
    rank, world = get_rank(), get_world_size()
    return range(n * rank // world, n * (rank + 1) // world)


def gathered(value: T) -> list[T]:
    """The value of every rank, in the order of ranks."""
    if get_world_size() == 1:
        return [value]
    values = [value] * get_world_size()
    dist.all_gather_object(values, value)
    return values


@contextmanager
def first_failure_first() -> Iterator[None]:
    """A rank that dies breaks what the others exchange with it. They wait here until torchrun has seen the dead one,
    names it as the cause, and ends them."""
    try:
        yield
    except RuntimeError as error:
        if get_world_size() > 1:
            logging.error("rank %d failed: %s", get_rank(), error)
            time.sleep(GRACE_S)
        raise
