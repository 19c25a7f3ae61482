"""A LAVIS runner that trains and resumes exactly, on a CPU, one GPU or under torchrun. Knows nothing of mining.

A subclass says how it evaluates (`build_evaluation`), and may keep more state (`build_state`) and more in a step's row.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Generic, TypeVar

import torch
from lavis.common.config import Config
from lavis.common.registry import registry
from lavis.models.base_model import BaseModel
from lavis.runners.runner_base import RunnerBase
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from lavis_mafa.common.loading import WatchedLoader
from lavis_mafa.common.ranks import get_rank, is_main_process, largest
from lavis_mafa.common.stopping import Stopped, deferred_stops, stop_asked
from lavis_mafa.core.batch import Batch
from lavis_mafa.core.plan import Plan, PlannedBatchSampler
from lavis_mafa.data.dataset import image_named
from lavis_mafa.datasets.lavis_captions import Splits
from lavis_mafa.encoders.text_encoder import TextEncoder
from lavis_mafa.runners.bad_images import name_bad_images
from lavis_mafa.runners.evaluation import Evaluation
from lavis_mafa.runners.layer_decay import ScaledSchedule, slow_lower_layers
from lavis_mafa.runners.run import Learner, Results, Run
from lavis_mafa.runners.state import RunState
from lavis_mafa.runners.step_metrics import epoch_row
from lavis_mafa.runners.taken_step import TakenStep
from lavis_mafa.runners.token_cache import attach_texts, attach_tokens
from lavis_mafa.tasks.loop import LoopTask, Schedule, StepOutput, refuse_nan

SHOWN = (
    "loss",
    "loss_itc",
    "loss_itm",
    "loss_lm",
    "loss_mlm",
    "connections",
    "false_negative_rate",
    "data_share",
)

GO_ON, SAVE, STOP = range(3)  # what a rank wishes after a step; the largest wish counts
Output = TypeVar("Output", bound=StepOutput)


class ResumableRunner(RunnerBase, Generic[Output]):
    """Trains a model by its task's loop, epoch by planned epoch; RunState keeps what a resume needs."""

    samplings: tuple[str, ...] = ("random",)  # allowed values of run.sampling
    state: RunState
    _wrapped_model: nn.Module | None
    _scaler: torch.amp.GradScaler | None
    _lr_sched: Schedule | None

    def __init__(
        self, cfg: Config, task: LoopTask, model: BaseModel, datasets: Mapping[str, Splits], job_id: str = ""
    ) -> None:
        super().__init__(cfg, task, model, datasets, job_id)
        self.run_cfg = cfg.run_cfg
        self._taken: deque[TakenStep[Output]] = deque()  # not yet written down
        self._shown: dict[str, str] = {}
        if (sampling := self.run_cfg.get("sampling", self.samplings[0])) not in self.samplings:
            raise ValueError(f"run.sampling is {sampling!r}: {self.run_cfg.runner} takes {' or '.join(self.samplings)}")
        (self.name, self.splits), *others = datasets.items()
        if others:
            raise ValueError(
                f"datasets: {self.run_cfg.runner} trains on one record table; put several annotation files into one "
                "image_text"
            )
        self.run = Run(
            name=self.name,
            folder=self.output_dir,
            result_dir=self.result_dir,
            config=cfg,
            network=self._model,
            splits=self.splits,
            device=self.device,
            evaluate_only=self.evaluate_only,
            valid_splits=self.valid_splits,
            test_splits=self.test_splits,
        )
        self.evaluation = self.build_evaluation()
        self._cache()

    def build_evaluation(self) -> Evaluation:
        raise NotImplementedError

    def build_state(self) -> RunState:
        """What the run commits and resumes from; called once, with the model on its device."""
        return RunState(self.run, self.learner())

    def step_row(self, samples: Batch, output: Output) -> dict[str, float | None]:
        """What a step found beside its losses, for steps.jsonl; by default nothing."""
        return {}

    # ---- what LAVIS' runner cannot do on a CPU or without a process group

    def setup_output_dir(self) -> None:
        """run.output_dir as it stands, not below LAVIS' package and a job number: a resume must find it."""
        self.output_dir = Path(self.config.run_cfg.output_dir).expanduser().resolve()
        self.result_dir = self.output_dir / "result"
        self.result_dir.mkdir(parents=True, exist_ok=True)
        registry.mapping["paths"].update(output_dir=str(self.output_dir), result_dir=str(self.result_dir))

    @property
    def model(self) -> nn.Module:
        """The model on its device, wrapped where there are several processes."""
        if self._wrapped_model is None:
            self._model.to(self.device)
            gpus = [self.run_cfg.gpu] if self.cuda_enabled else None
            self._wrapped_model = DistributedDataParallel(self._model, gpus) if self.use_distributed else self._model
        return self._wrapped_model

    @property
    def scaler(self) -> torch.amp.GradScaler | None:
        if self._scaler is None and self.run_cfg.get("precision", "fp32") == "fp16":
            self._scaler = torch.amp.GradScaler("cuda")
        return self._scaler

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """LAVIS' AdamW, its groups split by layer where run.lr_layer_decay asks for it."""
        if self._optimizer is None:
            built: torch.optim.Optimizer = super().optimizer
            if (decay := float(self.run_cfg.get("lr_layer_decay", 1))) < 1:
                slow_lower_layers(built, getattr(self._model, "visual_encoder", None), decay)
        return self._optimizer

    @property
    def lr_scheduler(self) -> Schedule:
        if self._lr_sched is None and float(self.run_cfg.get("lr_layer_decay", 1)) < 1:
            self._lr_sched = ScaledSchedule(super().lr_scheduler, self.optimizer)
        return super().lr_scheduler

    def learner(self) -> Learner:
        return Learner(self.run.network, self.optimizer, self.scaler, self.evaluation.best)

    @property
    def token_folder(self) -> Path:
        """Where what frozen encoders say is kept."""
        return Path(self.run_cfg.get("token_folder") or self.output_dir / "tokens").expanduser()

    def _cache(self) -> None:
        """What frozen encoders say: of images where run.cache_tokens asks for it, of captions where one reads them."""
        folder = self.token_folder
        read = getattr(self._model.to(self.device), "read", None)
        for split, dataset in self.splits.items():
            if self.run_cfg.get("cache_tokens", False):
                attach_tokens(self._model, dataset, folder, self.device, int(self.run_cfg.num_workers))
                logging.info("%s: tokens of %s are cached", self.name, split)
            if isinstance(read, TextEncoder):
                attach_texts(read, dataset, folder)

    # ---- a run

    def train(self) -> Results:
        """Train to run.max_epoch (or run.stop_epoch before it), evaluate, report; returns what results.json holds."""
        _ = self.model  # on its device
        if not self.evaluate_only:
            self._train()
        return self.evaluation.report()

    def _train(self) -> None:
        self.state = self.build_state()
        first, step = self.resume()
        with deferred_stops():
            for epoch in range(first, int(self.run_cfg.get("stop_epoch") or self.max_epoch)):
                self._run_epoch(epoch, step)
                step = 0
                if largest(bool(stop_asked())):
                    self._stop(epoch + 1, 0)
        self.state.journal.close()

    def resume(self) -> tuple[int, int]:
        """(epoch, step) to go on from."""
        return self.state.resume(self.resume_ckpt_path)

    def _run_epoch(self, epoch: int, step: int) -> None:
        data, plan = self.splits["train"], self.state.begin_epoch(epoch, step)
        data.set_epoch(epoch)
        loader = WatchedLoader(
            data,
            num_workers=int(self.run_cfg.num_workers),
            name_of=image_named(data),
            batch_sampler=PlannedBatchSampler(plan, get_rank(), step),
            pin_memory=self.cuda_enabled,
            collate_fn=getattr(data, "collater", None),
        )
        self.model.train()
        self.task.train_epoch(
            epoch,
            self.model,
            loader,
            self.optimizer,
            self.lr_scheduler,
            self.scaler,
            self.cuda_enabled,
            accum_grad_iters=self.accum_grad_iters,
            start_step=step,
            after_step=lambda step, *found: self._after_step(epoch, plan, step, *found),
        )
        self._finish_epoch(epoch, plan)

    def _after_step(
        self, epoch: int, plan: Plan, step: int, samples: Batch, output: Output, seconds: float, waited: float
    ) -> dict[str, str]:
        """Write down what steps found, checkpoint where due; returns what the progress bar shows.

        On a GPU a step is written down after the next one, whose similarities have waited for it: none waits twice.
        """
        clock = {"lr": self.optimizer.param_groups[0]["lr"], "s_it": seconds, "data_share": waited / seconds}
        self._taken.append(TakenStep.of(epoch, step, samples, output, clock))
        self._write_down(behind=int(self.cuda_enabled))
        if (step + 1) % self.accum_grad_iters == 0 or step + 1 == plan.steps:
            self._commit_where_due(epoch, step + 1, plan)
        return self._shown

    def _write_down(self, behind: int = 0) -> None:
        """Store, check and journal the steps that were taken, but for the last `behind`."""
        while len(self._taken) > behind:
            taken = self._taken.popleft()
            losses = taken.losses()
            refuse_nan(losses, taken.samples["index"].tolist(), taken.epoch, taken.step)
            self.keep_step(taken.samples, taken.numbers.values)
            place = {"epoch": taken.epoch, "step": taken.step}
            row = {**place, **losses, **self.step_row(taken.samples, taken.output), **taken.clock}
            if is_main_process():
                self.state.journal.step(row, self.state.place(taken.epoch, taken.step))
            self._shown = {name: f"{row[name]:.3g}" for name in SHOWN if row.get(name) is not None}

    def _commit_where_due(self, epoch: int, done: int, plan: Plan) -> None:
        """A checkpoint within an epoch: by steps, by the clock, or as some rank was asked to stop; all ranks agree."""
        every = int(self.run_cfg.get("save_every_steps", 0))
        wish = STOP if stop_asked() else SAVE if self._is_time() else GO_ON
        wish = max(largest(wish), SAVE if every and done % every == 0 else GO_ON)
        if wish == STOP or (wish == SAVE and done < plan.steps):  # at its end, the epoch has one of its own
            self._write_down()
            self._name_bad_images()
            self.state.save(epoch, done)
        if wish == STOP:
            self._stop(epoch, done)

    def _is_time(self) -> bool:
        minutes = float(self.run_cfg.get("save_every_minutes", 0))
        return minutes > 0 and time.monotonic() - self.state.saved_at >= 60 * minutes

    def _stop(self, epoch: int, step: int) -> None:
        """Ends this rank, after a checkpoint that all ranks wrote."""
        self.state.journal.close()
        logging.info("stopped at epoch %d, step %d: run.resume_ckpt_path=auto goes on from there", epoch, step)
        raise Stopped

    def keep_step(self, samples: Batch, kept: Mapping[str, Tensor]) -> None:
        """Store what later epochs need of the step, its output's `kept` on the CPU; by default nothing."""

    def _finish_epoch(self, epoch: int, plan: Plan) -> None:
        """Validate, plan the next epoch, checkpoint."""
        self._write_down()
        self._name_bad_images()
        bad, figures = len(self.state.bad_records()), self.evaluation.validate()
        if is_main_process():
            journal = self.state.journal
            row = epoch_row(journal.steps(epoch), {"sampling": plan.sampling, **plan.stats})
            journal.epoch({**row, **({"bad_images": bad} if bad else {}), **figures})
        self.evaluation.keep_best(epoch, figures)
        self.state.finish_epoch(epoch, plan)

    def _name_bad_images(self) -> None:
        """At every commit: a resumed run does not read again what came before it."""
        name_bad_images(self.splits["train"], self.output_dir, get_rank())
