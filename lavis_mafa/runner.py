"""`grit_runner`: LAVIS' runner that plans its epochs (GRIT) and resumes exactly; a CPU or a lone process will do.

Order at a commit: flush the stores, write the plan, checkpoint last. A checkpoint names the plan and the committed
parts of every store; what was written after it is dropped on resume.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
import torch.distributed as dist
from lavis.common.dist_utils import get_rank, get_world_size, is_main_process
from lavis.common.registry import registry
from lavis.runners.runner_base import RunnerBase
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader
from torch.utils.tensorboard import SummaryWriter

from lavis_mafa import checkpoint
from lavis_mafa.bad_images import name_bad_images
from lavis_mafa.core.artifacts import atomic_write
from lavis_mafa.core.connections import ConnectionStore
from lavis_mafa.core.embeddings import EmbeddingStore
from lavis_mafa.core.grit import GritPlanner
from lavis_mafa.core.miner import ConnectionMiner
from lavis_mafa.core.plan import Plan, PlannedBatchSampler
from lavis_mafa.evaluation import evaluate_retrieval
from lavis_mafa.journal import Journal
from lavis_mafa.judgments import JudgedPairs, configured_con_d, evaluate_judgments, read_judged_pairs
from lavis_mafa.models.base import MafaOutput
from lavis_mafa.models.weights import read_state_dict
from lavis_mafa.report import report_run
from lavis_mafa.token_cache import attach_tokens
from lavis_mafa.watch import epoch_row, step_row


@registry.register_runner("grit_runner")
class GritRunner(RunnerBase):
    """Plans, trains, stores, checkpoints and evaluates a `mafa_*` model."""

    def __init__(self, cfg: Any, task: Any, model: nn.Module, datasets: Mapping[str, Any], job_id: str = "") -> None:
        super().__init__(cfg, task, model, datasets, job_id)
        self.run_cfg = cfg.run_cfg
        (self.name, self.splits), *others = datasets.items()
        if others:
            raise ValueError(
                "datasets: grit_runner plans one record table; put several annotation files into one image_text"
            )
        self.seed = int(self.run_cfg.seed)
        self.best = {"epoch": -1, "value": -1.0}
        self.judged = self._read_judged()  # now, so that what is wrong with the file is told before hours of training
        if self.run_cfg.get("cache_tokens", False):
            self._cache_tokens()

    # ---- what LAVIS' runner cannot do on a CPU or without a process group

    def setup_output_dir(self) -> None:
        """run.output_dir as it stands, not below LAVIS' package and a job number: a resume must find it."""
        self.output_dir = Path(self.config.run_cfg.output_dir).expanduser().resolve()
        self.result_dir = self.output_dir / "result"
        self.result_dir.mkdir(parents=True, exist_ok=True)
        registry.mapping["paths"].update(output_dir=str(self.output_dir), result_dir=str(self.result_dir))

    @property
    def model(self) -> nn.Module:
        if self._wrapped_model is None:
            self._model = self._model.to(self.device)
            gpus = [self.run_cfg.gpu] if self.cuda_enabled else None
            self._wrapped_model = DistributedDataParallel(self._model, gpus) if self.use_distributed else self._model
        return self._wrapped_model

    @property
    def scaler(self) -> Any:
        if self._scaler is None and self.run_cfg.get("precision", "fp32") == "fp16":
            self._scaler = torch.amp.GradScaler("cuda")
        return self._scaler

    def _cache_tokens(self) -> None:
        for split, dataset in self.splits.items():
            if is_main_process():
                self._attach(dataset)
            _barrier()
            if not is_main_process():
                self._attach(dataset)
            logging.info("%s: tokens of %s are cached", self.name, split)

    def _attach(self, dataset: Any) -> None:
        folder = Path(self.run_cfg.get("token_folder") or self.output_dir / "tokens").expanduser()
        attach_tokens(self._model, dataset, folder, self.device, int(self.run_cfg.num_workers))

    # ---- a run

    def train(self) -> dict[str, Any]:
        """Train to run.max_epoch (or run.stop_epoch before it), evaluate, report; returns what results.json holds."""
        if self.evaluate_only:
            return self._report()
        self._prepare()
        first, step = self._resume()
        for epoch in range(first, int(self.run_cfg.get("stop_epoch") or self.max_epoch)):
            self._run_epoch(epoch, step)
            step = 0
        self.journal.close()
        return self._report()

    def _prepare(self) -> None:
        """Stores, planner and miner; nothing is read yet."""
        data, rank, world = self.splits["train"], get_rank(), get_world_size()
        self.grit = self.run_cfg.get("sampling", "grit") == "grit"
        width = self._model.text_proj.out_features
        scorer = self.task.build_scorer(self._model, data, self.device)
        prints = f"{data.table.fingerprint}:{scorer.fingerprint if scorer else 'none'}"
        self.expected = {"data": data.table.fingerprint, "world_size": world, "vocabulary": len(self._model.tokenizer)}
        self.connections = ConnectionStore(self.output_dir / "connections", prints, rank) if scorer else None
        self.embeddings = EmbeddingStore(
            self.output_dir / "embeddings", len(data), width, data.table.fingerprint, rank, world
        )
        self.planner = GritPlanner(
            batch_size=int(self.run_cfg.batch_size_train),
            world=world,
            search_space=self.run_cfg.get("search_space", "all"),
            seed=self.seed,
            sampling=self.run_cfg.get("sampling", "grit"),
            fingerprint=data.table.fingerprint,
        )
        self._model.miner = ConnectionMiner(self._model.mafa, scorer, self.connections)

    def _resume(self) -> tuple[int, int]:
        """(epoch, step) to go on from: the checkpoint's, or the start of a fresh run."""
        asked, found = self.resume_ckpt_path, checkpoint.list_checkpoints(self.output_dir)
        if not asked and found:
            raise ValueError(
                f"run.output_dir {self.output_dir} holds a run; "
                "set run.resume_ckpt_path: auto to go on with it, or choose another"
            )
        path = (found[-1] if found else None) if asked == "auto" else asked and Path(asked)
        self.journal = Journal(
            self.output_dir, SummaryWriter(self.output_dir / "tensorboard") if is_main_process() else None
        )
        if path is None:
            self._start_fresh()
            return 0, 0
        content = checkpoint.load(path, self.expected)
        self._load(content)
        return int(content["epoch"]), int(content["step"])

    def _start_fresh(self) -> None:
        """Whatever a killed run left before its first checkpoint is dropped."""
        self.journal.truncate(0, 0)
        if self.connections is not None:
            self.connections.rollback({**self.connections.commit(), "generation": 0, "rows": {}})
        _barrier()
        if is_main_process():
            self._make_plan(0, None).save(self._plan_path(0))
        _barrier()

    def _run_epoch(self, epoch: int, step: int) -> None:
        data = self.splits["train"]
        plan = self._read_plan(epoch)
        if step == 0 and self.grit:
            self.embeddings.begin_epoch(epoch, plan.steps * plan.batch_size)
        data.set_epoch(epoch)
        loader = DataLoader(
            data,
            batch_sampler=PlannedBatchSampler(plan, get_rank(), step),
            num_workers=int(self.run_cfg.num_workers),
            pin_memory=self.cuda_enabled,
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
        self, epoch: int, plan: Plan, step: int, samples: Any, output: MafaOutput, seconds: float, waited: float
    ) -> dict[str, Any]:
        if self.grit:
            self.embeddings.write(samples["index"], output.image_embed, output.text_embed)
        row = {
            "epoch": epoch,
            "step": step,
            **step_row(samples, output, self.splits["train"].truth),
            "lr": self.optimizer.param_groups[0]["lr"],
            "s_it": seconds,
            "data_share": waited / seconds,
        }
        if is_main_process():
            self.journal.step(row, epoch * plan.steps + step)
        every = int(self.run_cfg.get("save_every_steps", 0))
        if every and (step + 1) % every == 0 and step + 1 < plan.steps and (step + 1) % self.accum_grad_iters == 0:
            self._save(epoch, step + 1)
        shown = (
            "loss",
            "loss_itc",
            "loss_itm",
            "loss_lm",
            "loss_mlm",
            "connections",
            "false_negative_rate",
            "data_share",
        )
        return {name: f"{row[name]:.3g}" for name in shown if name in row}

    def _finish_epoch(self, epoch: int, plan: Plan) -> None:
        """Validate, plan the next epoch, checkpoint."""
        bad = name_bad_images(self.splits["train"], self.output_dir, get_rank())
        if is_main_process():
            row = epoch_row(self.journal.steps(epoch), {"sampling": plan.sampling, **plan.stats})
            row.update({"bad_images": bad} if bad else {}, **self._validate())
            self.journal.epoch(row)
            self._keep_best(epoch, row)
        next_embeddings = None
        if self.grit:
            self.embeddings.commit()
            _barrier()
            next_embeddings = self.embeddings.gather(epoch) if is_main_process() else None
        if is_main_process():
            self._make_plan(epoch + 1, next_embeddings, plan).save(self._plan_path(epoch + 1))
        if self.connections is not None:
            self._merge_connections()
        self._save(epoch + 1, 0)

    def _merge_connections(self) -> None:
        self.connections.flush()
        _barrier()
        if is_main_process():
            self.connections.merge()
        _barrier()
        self.connections.reload()

    def _make_plan(self, epoch: int, embeddings: Any, before: Plan | None = None) -> Plan:
        table = self.splits["train"].table
        lead = before.untrained if before is not None else None
        return self.planner.plan(epoch, embeddings, len(table.image_id), lead, table.image_id)

    def _read_plan(self, epoch: int) -> Plan:
        planner = self.planner
        return Plan.load(
            self._plan_path(epoch),
            epoch=epoch,
            batch_size=planner.batch_size,
            world=planner.world,
            fingerprint=planner.fingerprint,
        )

    def _plan_path(self, epoch: int) -> Path:
        return self.output_dir / f"plan_{epoch}.npz"

    # ---- checkpoints

    def _save(self, epoch: int, step: int) -> None:
        """Stores first, checkpoint last. Every rank's embeddings are its own, the connections all ranks' together."""
        if self.connections is not None:
            self.connections.flush()
            _barrier()  # so that every rank's state names the parts of all
        stores = {
            "embeddings": self.embeddings.commit() if self.grit and step else None,
            "connections": self.connections.commit() if self.connections is not None else None,
        }
        of_ranks = [stores]
        if get_world_size() > 1:
            of_ranks = [None] * get_world_size()
            dist.all_gather_object(of_ranks, stores)
        if is_main_process():
            self.journal.flush()
            content = {
                **self.expected,
                "epoch": epoch,
                "step": step,
                "model": checkpoint.trained_state(self._model),
                "optimizer": self.optimizer.state_dict(),
                "scaler": self.scaler.state_dict() if self.scaler else None,
                "stores": of_ranks,
                "best": self.best,
                "config": self.config.to_dict(),
            }
            checkpoint.save(self.output_dir, content, keep=int(self.run_cfg.get("keep_checkpoints", 2)))
        _barrier()

    def _load(self, content: Mapping[str, Any]) -> None:
        self._load_model(content["model"])
        self.optimizer.load_state_dict(content["optimizer"])
        if self.scaler:
            self.scaler.load_state_dict(content["scaler"])
        stores = content["stores"][get_rank()]
        if stores["embeddings"] is not None:
            self.embeddings.rollback(stores["embeddings"])
        if stores["connections"] is not None:
            self.connections.rollback(content["stores"][0]["connections"])
        self.best = content["best"]
        self.journal.truncate(int(content["epoch"]), int(content["step"]))
        _barrier()

    def _load_model(self, state: Mapping[str, Any]) -> None:
        _ = self.model  # on its device before weights come
        own = self._model.state_dict()
        assert set(state) <= set(own), "a checkpoint of the same config holds no other keys"
        self._model.load_state_dict({**own, **state})

    def _keep_best(self, epoch: int, row: Mapping[str, Any]) -> None:
        value = row.get("val_r_mean")
        if value is not None and value > self.best["value"]:
            self.best = {"epoch": epoch, "value": float(value)}
            checkpoint.write(
                self.output_dir / "checkpoint_best.pth", {"model": checkpoint.trained_state(self._model), **self.best}
            )

    # ---- evaluation and report

    def _validate(self) -> dict[str, float]:
        """Recall by ITC alone on the validation splits, every epoch: quick, and it shows the curve."""
        row: dict[str, float] = {}
        for split in self.valid_splits:
            found = self._retrieval(split, k_test=0)["itc"]["annotation"]
            row.update(
                {f"{split}_{way}_{name}": value for way, values in found.items() for name, value in values.items()}
            )
            row[f"{split}_r_mean"] = sum(value for values in found.values() for value in values.values()) / 6
        return row

    def _retrieval(self, split: str, k_test: int) -> dict[str, Any]:
        return evaluate_retrieval(
            self._model,
            self.splits[split],
            batch_size=int(self.run_cfg.batch_size_eval),
            workers=int(self.run_cfg.num_workers),
            device=self.device,
            k_test=k_test,
        )

    def _read_judged(self) -> JudgedPairs | None:
        if not self.run_cfg.get("judged_pairs"):
            return None
        if not self.test_splits:
            raise ValueError("run.judged_pairs is about the images of a test split; name it in run.test_splits")
        return read_judged_pairs(self.run_cfg.judged_pairs, self.splits[self.test_splits[0]].table)

    def _judgments(self) -> dict[str, Any] | None:
        if self.judged is None:
            return None
        return evaluate_judgments(
            self._model,
            self.splits[self.test_splits[0]],
            self.judged,
            configured_con_d(self._model, self.run_cfg.get("con_d"), self.device),
            batch_size=int(self.run_cfg.batch_size_eval),
            workers=int(self.run_cfg.num_workers),
            device=self.device,
        )

    def _report(self) -> dict[str, Any]:
        """Evaluate the best weights (the last without validation), keep them as model.safetensors, and report."""
        results: dict[str, Any] = {}
        _ = self.model
        if is_main_process():
            if not self.evaluate_only:
                self._keep_final()
            for split in self.test_splits:
                results[split] = self._retrieval(split, int(self.run_cfg.get("k_test", 0)))
            results = report_run(self, results, self._judgments())
        _barrier()
        return results

    def _keep_final(self) -> None:
        if self.best["epoch"] >= 0:
            self._load_model(read_state_dict(self.output_dir / "checkpoint_best.pth"))
        state = {
            key: value.detach().cpu().contiguous().clone()
            for key, value in checkpoint.trained_state(self._model).items()
        }
        with atomic_write(self.output_dir / "model.safetensors") as file:
            file.write(safetensors.torch.save(state))


def _barrier() -> None:
    if get_world_size() > 1:
        dist.barrier()
