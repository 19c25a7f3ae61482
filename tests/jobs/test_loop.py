"""The training loop: what ranks exchange in a step, and what happens to a loss that is not finite."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor, nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.nn.parallel import DistributedDataParallel

from tests.ranks import on_ranks

WORLD, STEPS, GROUP = 2, 10, 4  # the last group has two batches


class Square(nn.Module):
    """A loss of one layer; its output has what a loop reads of a model's."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 1)

    def forward(self, samples: dict[str, Any]) -> Any:
        from lavis_mafa.tasks.loop import Losses

        loss = self.layer(samples["x"]).square().mean()
        return Losses(loss, {"loss_square": loss})


def batches(rank: int) -> list[dict[str, Any]]:
    drawn = torch.randn(WORLD, STEPS, 5, 3, generator=torch.Generator().manual_seed(0))
    return [{"x": x, "index": torch.arange(5)} for x in drawn[rank]]


def trained(model: nn.Module, data: list[dict[str, Any]]) -> None:
    from lavis_mafa.tasks.loop import LoopTask

    class Task(LoopTask):
        def output_of(self, output: Any) -> Any:
            return output

    class Constant:
        def step(self, cur_epoch: int, cur_step: int) -> None: ...

    task = Task(OmegaConf.create({"seed": 0, "device": "cpu", "precision": "fp32"}))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    options: Any = {"accum_grad_iters": GROUP, "after_step": lambda *found: {}}
    task.train_epoch(0, model, data, optimizer, Constant(), **options)  # type: ignore[arg-type]  # a list is a loader


def counted(rank: int, world: int) -> tuple[int, Tensor]:
    """How often gradients were exchanged, and the weights they led to."""
    torch.manual_seed(0)
    network = Square()
    model, exchanged = DistributedDataParallel(network), []

    def hook(group, bucket):  # type: ignore[no-untyped-def]  # DDP refuses annotations that are strings
        exchanged.append(bucket.index())
        return allreduce_hook(group, bucket)

    model.register_comm_hook(None, hook)
    trained(model, batches(rank))
    return len(exchanged), network.layer.weight.detach()


def test_gradients_are_exchanged_once_a_group_of_batches(tmp_path: Path) -> None:
    (times, weights), other = on_ranks(WORLD, tmp_path, counted)
    assert times == other[0] == 3  # groups of 4, 4 and 2
    assert torch.equal(weights, other[1])
    torch.manual_seed(0)
    alone = Square()
    trained(
        alone, [{"x": torch.cat([one["x"] for one in both])} for both in zip(*map(batches, range(WORLD)), strict=True)]
    )
    torch.testing.assert_close(weights, alone.layer.weight.detach())


def test_a_loss_that_is_not_finite_names_its_step_and_records() -> None:
    from lavis_mafa.tasks.loop import refuse_nan

    refuse_nan({"loss": 1.5, "loss_itc": 1.5}, [3, 1], 0, 5)
    with pytest.raises(
        FloatingPointError, match=r"epoch 0, step 5 is not finite \(loss_itc nan, loss_itm 0.5\); records \[3, 1\]"
    ):
        refuse_nan({"loss": float("nan"), "loss_itc": float("nan"), "loss_itm": 0.5}, [3, 1], 0, 5)
