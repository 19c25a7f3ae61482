"""A step that was taken, while what it found is on its way from the device."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar, cast

from torch import Tensor

from lavis_mafa.core.batch import Batch, Fetching
from lavis_mafa.runners.step_metrics import loss_row, loss_tensor
from lavis_mafa.tasks.loop import StepOutput

Output = TypeVar("Output", bound=StepOutput)
LOSSES = "losses"


@dataclass(frozen=True)
class TakenStep(Generic[Output]):
    """A step before it is written down.

    samples: what of the batch lies on the CPU. numbers: the losses, and the output's `kept`. clock: seconds and
    learning rate, for the journal.
    """

    epoch: int
    step: int
    samples: Batch
    output: Output
    numbers: Fetching
    clock: Mapping[str, float]

    @classmethod
    def of(cls, epoch: int, step: int, samples: Batch, output: Output, clock: Mapping[str, float]) -> TakenStep[Output]:
        numbers = Fetching({**output.kept, LOSSES: loss_tensor(output)})
        here = {name: value for name, value in samples.items() if not _is_on_gpu(value)}
        return cls(epoch, step, cast(Batch, here), output, numbers, clock)

    def losses(self) -> dict[str, float]:
        """By name; waits for the step."""
        return loss_row(self.output, self.numbers.values[LOSSES])


def _is_on_gpu(value: object) -> bool:
    return isinstance(value, Tensor) and value.device.type != "cpu"
