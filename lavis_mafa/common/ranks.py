"""What the ranks of a run do together."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist

T = TypeVar("T")
# How long a rank waits for another in a step, where all are alike. A dead one is seen at once, by the launcher.
PATIENCE = timedelta(hours=1)
# And where rank 0 may work alone, for hours over 10^8 records: as good as without a clock (gloo counts in 32 bits).
NO_CLOCK = timedelta(days=20)
GRACE_S = 5.0


def get_rank() -> int:
    """This process's number among the ranks of the run; 0 without a process group."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def get_world_size() -> int:
    """How many ranks the run has; 1 without a process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def is_main_process() -> bool:
    return get_rank() == 0


_patient: dict[dist.ProcessGroup, dist.ProcessGroup] = {}  # by the group of all ranks that it was made beside


def patient_group() -> dist.ProcessGroup:
    """All ranks on gloo, which waits for NO_CLOCK and touches no GPU; NCCL's watchdog would end a run after minutes.

    The first call makes it, on all ranks at about the same time: call it early.
    """
    everybody = dist.group.WORLD
    assert everybody is not None, "there is no process group"
    if everybody not in _patient:
        _patient.clear()
        made = dist.new_group(backend="gloo", timeout=NO_CLOCK)
        assert isinstance(made, dist.ProcessGroup), "every rank is a member"
        _patient[everybody] = made
    return _patient[everybody]


def barrier() -> None:
    """Wait for every rank, however long one of them works alone."""
    if get_world_size() > 1:
        dist.barrier(patient_group())


def shard(n: int) -> range:
    """This rank's share of n things; the shares of all ranks, in the order of ranks, are the n things, each once."""
    rank, world = get_rank(), get_world_size()
    return range(n * rank // world, n * (rank + 1) // world)


def gathered(value: T) -> list[T]:
    """The value of every rank, in the order of ranks; however long one of them works alone."""
    if get_world_size() == 1:
        return [value]
    values = [value] * get_world_size()
    dist.all_gather_object(values, value, patient_group())
    return values


def largest(value: int) -> int:
    """The largest of the ranks' values, so that all of them decide alike; every rank calls it."""
    if get_world_size() == 1:
        return value
    found = torch.tensor(value)
    dist.all_reduce(found, dist.ReduceOp.MAX, group=patient_group())
    return int(found)


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
