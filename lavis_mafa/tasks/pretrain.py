"""`mafa_pretrain`: LAVIS' task for pre-training with MAFA; builds Con-D and runs an epoch."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import torch
from lavis.common.registry import registry
from lavis.datasets.data_utils import prepare_sample
from lavis.datasets.datasets.base_dataset import BaseDataset
from lavis.tasks.base_task import BaseTask
from torch import nn
from tqdm import tqdm

from lavis_mafa.common.precision import precision
from lavis_mafa.common.ranks import get_rank, is_main_process
from lavis_mafa.core.miner import PairScorer
from lavis_mafa.core.settings import MafaSettings
from lavis_mafa.datasets.lavis_captions import mix
from lavis_mafa.datasets.pairs import AUGMENTING
from lavis_mafa.models.base import MafaOutput
from lavis_mafa.models.teacher import Teacher
from lavis_mafa.scorers.con_d import build_con_d, share_tower
from lavis_mafa.scorers.guide import build_guide
from lavis_mafa.scorers.own_head import OwnHead
from lavis_mafa.scorers.verdict_file import FileScorer

AfterStep = Callable[[int, Any, MafaOutput, float, float], dict[str, float]]


@registry.register_task("mafa_pretrain")
class MafaPretrainTask(BaseTask):
    """GRIT batches in, losses out; planning, stores and checkpoints are the runner's."""

    one_caption_a_record = False  # of LAVIS' data: a batch of look-alikes would be one image's captions

    def __init__(self, run_cfg: Any) -> None:
        super().__init__()
        self.run_cfg = run_cfg

    @classmethod
    def setup_task(cls, cfg: Any, **kwargs: Any) -> MafaPretrainTask:
        return cls(cfg.run_cfg)

    def build_datasets(self, cfg: Any) -> dict[str, Any]:
        return self.gathered(cfg, super().build_datasets(cfg))

    def gathered(self, cfg: Any, datasets: dict[str, Any]) -> dict[str, Any]:
        """The configured data sets; LAVIS' own are gathered into one record table, which alone can be planned."""
        if not any(isinstance(splits.get("train"), BaseDataset) for splits in datasets.values()):
            return datasets
        choices = {settings.get("on_bad_image", "raise") for settings in cfg.datasets_cfg.values()}
        processor = next(iter(cfg.datasets_cfg.values())).vis_processor.train.name
        on_bad_image = "replace" if "replace" in choices else "raise"
        choices_of_data = processor in AUGMENTING, on_bad_image, self.one_caption_a_record
        return mix(datasets, int(self.run_cfg.seed), *choices_of_data)

    def build_model(self, cfg: Any) -> nn.Module:
        model = super().build_model(cfg)
        return model.float() if self.run_cfg.device == "cpu" else model  # LAVIS' fp16 towers do not run on a CPU

    def build_scorer(self, student: Any, train_set: Any, device: torch.device) -> PairScorer | None:
        """Con-D as the config asks for it, and the record's own view where the batch's will not do.

        Raises:
            ValueError: the settings need a Con-D and none is configured, or a matching head that the model has not.
        """
        if not student.mafa.asks_scorer:
            return None
        if not self.run_cfg.get("con_d"):
            raise ValueError(
                f"model.mafa.action is {student.mafa.action!r} but run.con_d names no matching network; give one "
                "(run_scripts/mafa/train_con_d.sh trains it), or set model.mafa.action: keep for hard negatives alone"
            )
        if self.run_cfg.con_d.get("arch") == "file":
            return _verdicts(self.run_cfg.con_d, train_set, student.mafa)
        if self.run_cfg.con_d.get("arch") == "self":
            if not student.has_itm:
                raise ValueError("run.con_d.arch is self, but the model has no matching head: name a matching network")
            return OwnHead(student)
        is_guide = self.run_cfg.con_d.get("arch") == "open_clip"
        scorer = (build_guide if is_guide else build_con_d)(self.run_cfg.con_d, device)
        same_view = repr(scorer.vis_processor.transform) == repr(train_set.vis_processor.transform)
        if same_view:
            share_tower(scorer, student)
        tokens_of_another = train_set.tokens is not None and not scorer.shares_tower
        if not same_view or tokens_of_another:
            # a score on one augmentation may not be stored: the record's clean view is scored (projects/mafa/README.md)
            train_set.con_d_processor = scorer.vis_processor
        return scorer

    def build_teacher(self, student: Any) -> Teacher | None:
        """The momentum copy of a student that learns from one."""
        return Teacher(student) if student.mafa.targets == "momentum" else None

    def train_epoch(
        self,
        epoch: int,
        model: nn.Module,
        data_loader: Any,
        optimizer: torch.optim.Optimizer,
        lr_scheduler: Any,
        scaler: Any = None,
        cuda_enabled: bool = False,
        log_freq: int = 50,
        accum_grad_iters: int = 1,
        *,
        start_step: int = 0,
        after_step: AfterStep,
    ) -> None:
        """Steps start_step … of one epoch. `after_step` stores what the step found and returns what the bar shows."""
        steps = start_step + len(data_loader)
        bar = tqdm(total=steps, initial=start_step, desc=f"epoch {epoch}", unit="it", disable=not is_main_process())
        for step, (samples, waited) in enumerate(_timed(data_loader), start_step):
            began = time.perf_counter()
            seed_step(int(self.run_cfg.seed), epoch, step)
            samples = prepare_sample(samples, cuda_enabled=cuda_enabled)
            samples.update(epoch=epoch, iters=step, num_iters_per_epoch=steps)
            lr_scheduler.step(cur_epoch=epoch, cur_step=step)
            output = self._forward(model, samples, cuda_enabled)
            _refuse_nan(output, samples, epoch, step)
            closes_group = (step + 1) % accum_grad_iters == 0 or step + 1 == steps
            # DDP synchronises once a group
            quiet = contextlib.nullcontext() if closes_group or not hasattr(model, "no_sync") else model.no_sync()
            with quiet:
                loss = output.loss / accum_grad_iters
                (scaler.scale(loss) if scaler else loss).backward()
            if closes_group:
                _update(optimizer, scaler)
            seconds = time.perf_counter() - began + waited
            bar.set_postfix(after_step(step, samples, output, seconds, waited))
            bar.update()
        bar.close()

    def _forward(self, model: nn.Module, samples: Any, cuda_enabled: bool) -> MafaOutput:
        dtype = precision(self.run_cfg)
        with torch.autocast("cuda" if cuda_enabled else "cpu", dtype=dtype, enabled=dtype is not None):
            return model(samples)


def _verdicts(con_d: Any, train_set: Any, rule: MafaSettings) -> FileScorer:
    """Verdicts mined offline (`run.con_d: {arch: file, path: …/connections.parquet}`)."""
    if not con_d.get("path"):
        raise ValueError(
            "run.con_d: arch file needs path, the connections.parquet that `python -m lavis_mafa.mine` wrote"
        )
    scorer = FileScorer.read(con_d.path, rule.low, rule.high)
    if not scorer.covers(train_set.table.image_id):
        raise ValueError(
            f"run.con_d.path: {con_d.path} holds no image of the training data; mine that data, under its dataset name"
        )
    return scorer


def seed_step(seed: int, epoch: int, step: int) -> None:
    """A step's randomness is f(seed, epoch, step, rank), so that a resumed run draws what an unbroken one draws."""
    state = np.random.SeedSequence([seed, epoch, step, get_rank()]).generate_state(1, np.uint64)
    torch.manual_seed(int(state[0]) >> 1)


def _timed(loader: Iterable[Any]) -> Iterator[tuple[Any, float]]:
    began = time.perf_counter()
    for samples in loader:
        yield samples, time.perf_counter() - began
        began = time.perf_counter()


def _update(optimizer: torch.optim.Optimizer, scaler: Any) -> None:
    if scaler:
        scaler.step(optimizer)
        scaler.update()
    else:
        optimizer.step()
    optimizer.zero_grad()


def _refuse_nan(output: MafaOutput, samples: Any, epoch: int, step: int) -> None:
    if math.isfinite(output.loss.item()):
        return
    parts = ", ".join(f"{name} {value.item():g}" for name, value in output.losses.items())
    raise FloatingPointError(
        f"the loss of epoch {epoch}, step {step} is not finite ({parts}); records {samples['index'].tolist()}. "
        "The last checkpoint is whole: lower run.init_lr, or take bf16 or fp32, and go on from it"
    )
