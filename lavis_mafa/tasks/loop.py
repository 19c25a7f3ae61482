"""The training loop of every task: seeded steps that a resumed run repeats exactly. Knows nothing of mining."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from lavis.common.config import Config
from lavis.models.base_model import BaseModel
from lavis.tasks.base_task import BaseTask
from omegaconf import DictConfig
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from lavis_mafa.common.precision import precision
from lavis_mafa.common.progress import progress_bar
from lavis_mafa.common.ranks import get_rank, is_main_process
from lavis_mafa.core.batch import Batch, on_device


class StepOutput(Protocol):
    """What a step gives back: the loss, and its parts by name."""

    @property
    def loss(self) -> Tensor: ...

    @property
    def losses(self) -> Mapping[str, Tensor]: ...

    @property
    def logged(self) -> Mapping[str, Tensor]:
        """Scalars that the journal has beside the losses."""
        ...

    @property
    def kept(self) -> Mapping[str, Tensor]:
        """What a runner keeps of the step beside its losses."""
        ...


@dataclass(frozen=True)
class Losses:
    """A model's own loss and its parts."""

    loss: Tensor
    losses: Mapping[str, Tensor]
    logged: Mapping[str, Tensor] = field(default_factory=dict)
    kept: Mapping[str, Tensor] = field(default_factory=dict)


class Schedule(Protocol):
    """LAVIS' schedulers of the learning rate."""

    def step(self, cur_epoch: int, cur_step: int) -> None: ...


# (step, samples, output, seconds of the step, seconds it waited for data) → what the progress bar shows
AfterStep = Callable[[int, Batch, StepOutput, float, float], Mapping[str, str]]


class LoopTask(BaseTask):
    """A LAVIS task that trains by the loop below. A subclass says what the model's output means (`output_of`).

    host_fields: of a batch, which stay on the CPU.
    """

    host_fields: tuple[str, ...] = ()

    def __init__(self, run_cfg: DictConfig) -> None:
        super().__init__()
        self.run_cfg = run_cfg

    @classmethod
    def setup_task(cls, cfg: Config, **kwargs: object) -> LoopTask:
        return cls(cfg.run_cfg)

    def build_model(self, cfg: Config) -> BaseModel:
        model = super().build_model(cfg)
        return model.float() if self.run_cfg.device == "cpu" else model  # LAVIS' fp16 towers do not run on a CPU

    def output_of(self, output: Any) -> StepOutput:
        """The losses in what the model returned for a batch."""
        raise NotImplementedError

    def train_epoch(
        self,
        epoch: int,
        model: BaseModel | DistributedDataParallel,
        data_loader: DataLoader[Batch],
        optimizer: torch.optim.Optimizer,
        lr_scheduler: Schedule,
        scaler: torch.amp.GradScaler | None = None,
        cuda_enabled: bool = False,
        accum_grad_iters: int = 1,
        *,
        start_step: int = 0,
        after_step: AfterStep,
    ) -> None:
        """Train on the steps of an epoch from start_step on.

        Args:
            data_loader: the batches from start_step on.
            after_step: stores what the step found and returns what the progress bar shows.

        Nothing here waits for the device; after_step reads what a step found when it has arrived.
        """
        steps, device = start_step + len(data_loader), torch.device("cuda" if cuda_enabled else "cpu")
        bar = progress_bar(
            total=steps, initial=start_step, desc=f"epoch {epoch}", unit="it", disable=not is_main_process()
        )
        for step, (samples, waited) in enumerate(_timed(data_loader), start_step):
            began = time.perf_counter()
            seed_step(int(self.run_cfg.seed), epoch, step)
            samples = on_device(samples, device, *self.host_fields)
            samples = {**samples, "epoch": epoch, "iters": step, "num_iters_per_epoch": steps}
            lr_scheduler.step(cur_epoch=epoch, cur_step=step)
            closes_group = (step + 1) % accum_grad_iters == 0 or step + 1 == steps
            with _quiet(model, closes_group):
                output = self._forward(model, samples, cuda_enabled)
                loss = output.loss / accum_grad_iters
                (scaler.scale(loss) if scaler else loss).backward()  # type: ignore[no-untyped-call]  # of torch
            if closes_group:
                _update(optimizer, scaler)
            seconds = time.perf_counter() - began + waited
            bar.set_postfix(after_step(step, samples, output, seconds, waited), refresh=False)
            bar.update()
        bar.close()

    def _forward(self, model: nn.Module, samples: Batch, cuda_enabled: bool) -> StepOutput:
        dtype = precision(self.run_cfg)
        with torch.autocast("cuda" if cuda_enabled else "cpu", dtype=dtype, enabled=dtype is not None):
            return self.output_of(model(samples))


def seed_step(seed: int, epoch: int, step: int) -> None:
    """A step's randomness is f(seed, epoch, step, rank), so that a resumed run draws what an unbroken one draws."""
    state = np.random.SeedSequence([seed, epoch, step, get_rank()]).generate_state(1, np.uint64)
    torch.manual_seed(int(state[0]) >> 1)


def _quiet(model: nn.Module, closes_group: bool) -> contextlib.AbstractContextManager[None]:
    """DDP synchronises once a group: it decides so in the forward, so that this encloses forward and backward."""
    silent: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
    return silent if closes_group or not isinstance(model, DistributedDataParallel) else model.no_sync()


def _timed(loader: Iterable[Batch]) -> Iterator[tuple[Batch, float]]:
    """Each batch with the seconds that it was waited for."""
    began = time.perf_counter()
    for samples in loader:
        yield samples, time.perf_counter() - began
        began = time.perf_counter()


def _update(optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler | None) -> None:
    if scaler:
        scaler.step(optimizer)
        scaler.update()
    else:
        optimizer.step()
    optimizer.zero_grad()


def refuse_nan(losses: Mapping[str, float], records: Sequence[int], epoch: int, step: int) -> None:
    """FloatingPointError where `loss` is not finite: names its parts and the records of the batch."""
    if math.isfinite(losses["loss"]):
        return
    parts = ", ".join(f"{name} {value:g}" for name, value in losses.items() if name != "loss")
    raise FloatingPointError(
        f"the loss of epoch {epoch}, step {step} is not finite ({parts}); records {list(records)}. "
        "The last checkpoint is whole: lower run.init_lr, or take bf16 or fp32, and resume from it"
    )
