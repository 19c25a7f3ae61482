"""What ranks do together, on 2 and 4 of them (gloo): waiting for one that works alone, and planning side by side."""

from __future__ import annotations

import time
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
import torch.distributed as dist

from lavis_mafa.common.ranks import barrier, gathered, get_rank, patient_group
from lavis_mafa.core.grit import GritPlanner
from tests.ranks import as_torchrun, on_ranks

N, D = 230, 8


def patient() -> tuple[list[int], float]:
    """Rank 0 works for longer than the group of a step would wait."""
    dist.init_process_group("gloo", timeout=timedelta(seconds=2))
    patient_group()
    began = time.perf_counter()
    if get_rank() == 0:
        time.sleep(3)
    barrier()
    return gathered(get_rank()), time.perf_counter() - began


def test_ranks_wait_for_one_that_works_alone_beyond_the_clock_of_a_step() -> None:
    for ranks, seconds in as_torchrun(2, patient):
        assert ranks == [0, 1] and seconds > 2.5


def planned(rank: int, world: int, space: int | str, spread: bool) -> np.ndarray:
    rng = np.random.default_rng(3)
    arrays = rng.standard_normal((N, D)), rng.standard_normal((N, D))
    planner = GritPlanner(4, 2, search_space=space, seed=1, spread=spread)
    return planner.plan(5, arrays, N, lead=np.array([7, 11])).order_N


@pytest.mark.parametrize("space", [20, 100, "all"])  # more spaces than ranks, fewer, one
def test_planning_side_by_side_makes_the_plan_of_one_process(space: int | str, tmp_path: Path) -> None:
    alone = planned(0, 1, space, spread=False)
    assert sorted(alone) == list(range(N))
    for order in on_ranks(4, tmp_path, planned, space, True):
        np.testing.assert_array_equal(order, alone)
