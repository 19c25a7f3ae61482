"""What `grit_runner` commits and resumes from: stores, plans, journal, checkpoints.

Order at a commit: flush the stores, write the plan, checkpoint last. A checkpoint names the plan and the committed
parts of every store; what was written after it is dropped on resume.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from lavis_mafa.common.ranks import barrier, gathered, get_rank, get_world_size, is_main_process
from lavis_mafa.core.connections import ConnectionStore
from lavis_mafa.core.embeddings import EmbeddingStore
from lavis_mafa.core.grit import GritPlanner
from lavis_mafa.core.miner import PairScorer
from lavis_mafa.core.plan import Plan
from lavis_mafa.models.text import vocabulary
from lavis_mafa.models.trained import load_trained, size, trained_state
from lavis_mafa.runners import checkpoint
from lavis_mafa.runners.journal import Journal


class RunState:
    """The files of a run below `runner.output_dir`. `connections`, open after `resume`, is None without a scorer."""

    def __init__(self, runner: Any, scorer: PairScorer | None) -> None:
        self.runner, self.run_cfg, self.folder = runner, runner.run_cfg, runner.output_dir
        table, rank, world = runner.splits["train"].table, get_rank(), get_world_size()
        self.grit, self._image_id = self.run_cfg.get("sampling", "grit") == "grit", table.image_id
        self.expected = {
            "data": table.fingerprint,
            "world_size": world,
            "vocabulary": vocabulary(runner.network.tokenizer),
            "network": size(runner.network),
            "scorer": (scorer.fingerprint or "self") if scorer else "none",
        }
        self.connections: ConnectionStore | None = None
        width = runner.network.embed_dim if self.grit else 1
        self.embeddings = EmbeddingStore(
            self.folder / "embeddings", len(self._image_id), width, table.fingerprint, rank, world
        )
        self.planner = GritPlanner(
            batch_size=int(self.run_cfg.batch_size_train),
            world=world,
            search_space=self.run_cfg.get("search_space", "all"),
            seed=int(self.run_cfg.seed),
            sampling=self.run_cfg.get("sampling", "grit"),
            skip_nearest=int(self.run_cfg.get("skip_nearest", 0)),
            quantile=float(self.run_cfg.get("quantile", 1.0)),
            fingerprint=table.fingerprint,
        )

    def _open_connections(self, state: Mapping[str, Any] | None) -> ConnectionStore | None:
        if self.expected["scorer"] in ("none", "self"):  # scores of the model itself age, and are not kept
            return None
        prints = f"{self.expected['data']}:{self.expected['scorer']}"
        return ConnectionStore(self.folder / "connections", prints, get_rank(), state)

    # ---- where a run begins

    def resume(self) -> tuple[int, int]:
        """(epoch, step) to go on from: the checkpoint's, or the start of a fresh run."""
        path = checkpoint.choose(self.folder, self.runner.resume_ckpt_path)
        content = checkpoint.load(path, self.expected, self._check_files) if path else None
        epoch, step = (int(content["epoch"]), int(content["step"])) if content else (0, 0)
        barrier()  # every rank has found its files whole
        if is_main_process():
            checkpoint.drop_later(self.folder, epoch, step)
            for torn in self.folder.rglob("*.tmp"):
                torn.unlink()
        barrier()
        self.journal = self._open_journal(epoch, step)
        if content is not None:
            self._load(content)
        else:
            self._start_fresh()
        barrier()
        return epoch, step

    def _check_files(self, content: Mapping[str, Any]) -> None:
        """Opens the stores. Raises ValueError if a plan or store that the checkpoint names is gone, torn or foreign."""
        self._read_plan(int(content["epoch"]))
        stores = content["stores"][get_rank()]
        if stores["embeddings"] is not None:
            self.embeddings.check(stores["embeddings"])
        self.connections = self._open_connections(content["stores"][0]["connections"])

    def _open_journal(self, epoch: int, step: int) -> Journal:
        steps = len(self._image_id) // (self.planner.batch_size * self.planner.world)
        purge = {"purge_step": epoch * steps + step}  # TensorBoard hides what a killed run drew beyond the checkpoint
        journal = Journal(
            self.folder, SummaryWriter(self.folder / "tensorboard", **purge) if is_main_process() else None
        )
        journal.truncate(epoch, step)
        return journal

    def _start_fresh(self) -> None:
        """Whatever a killed run left before its first checkpoint is dropped."""
        self.connections = self._open_connections(None)
        if self.connections is not None:
            state = self.connections.commit()
            barrier()  # every rank has looked before the first one deletes
            self.connections.rollback({**state, "generation": 0, "rows": {}})
        if is_main_process():
            self._plan(0, None).save(self._plan_path(0))

    # ---- plans

    def begin_epoch(self, epoch: int, step: int) -> Plan:
        """The plan of the epoch that is entered at `step`."""
        plan = self._read_plan(epoch)
        if step == 0 and self.grit:
            self.embeddings.begin_epoch(epoch, plan.steps * plan.batch_size)
        return plan

    def finish_epoch(self, epoch: int, plan: Plan) -> None:
        """Plan the next epoch from the embeddings of this one, merge the ranks' connections, checkpoint."""
        found = None
        if self.grit:
            self.embeddings.commit()
            barrier()
            planned = epoch + 1 >= int(self.run_cfg.get("random_epochs", 1))
            found = self.embeddings.gather(epoch) if planned and is_main_process() else None
        if is_main_process():
            self._plan(epoch + 1, found, plan).save(self._plan_path(epoch + 1))
        if self.connections is not None:
            self._merge_connections(self.connections)
        self.save(epoch + 1, 0)

    def _merge_connections(self, connections: ConnectionStore) -> None:
        connections.flush()
        barrier()
        if is_main_process():
            connections.merge()
        barrier()
        connections.reload()

    def _plan(self, epoch: int, embeddings: Any, before: Plan | None = None) -> Plan:
        lead = before.untrained if before is not None else None
        return self.planner.plan(epoch, embeddings, len(self._image_id), lead, self._image_id)

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
        return self.folder / f"plan_{epoch}.npz"

    # ---- checkpoints

    def save(self, epoch: int, step: int) -> None:
        """Stores first, checkpoint last. Every rank's embeddings are its own, the connections all ranks' together."""
        if self.connections is not None:
            self.connections.flush()
            barrier()  # so that every rank's state names the parts of all
        stores = {
            "embeddings": self.embeddings.commit() if self.grit and step else None,
            "connections": self.connections.commit() if self.connections is not None else None,
        }
        of_ranks = gathered(stores)
        if is_main_process():
            self.journal.flush()
            content = {**self.expected, "epoch": epoch, "step": step, "stores": of_ranks, **self._of_runner()}
            checkpoint.save(self.folder, content, keep=int(self.run_cfg.get("keep_checkpoints", 2)))
        barrier()

    def _of_runner(self) -> dict[str, Any]:
        runner = self.runner
        return {
            "model": trained_state(runner.network),
            "teacher": trained_state(teacher.model) if (teacher := self._teacher()) else None,
            "optimizer": runner.optimizer.state_dict(),
            "scaler": runner.scaler.state_dict() if runner.scaler else None,
            "best": runner.evaluation.best,
            "config": runner.config.to_dict(),
        }

    def _teacher(self) -> Any:
        return getattr(self.runner.network, "teacher", None)

    def _load(self, content: Mapping[str, Any]) -> None:
        runner = self.runner
        _ = runner.model  # on its device before weights come
        load_trained(runner.network, content["model"])
        if teacher := self._teacher():
            if content.get("teacher") is None:
                raise ValueError("model.mafa.targets is momentum, but the checkpoint was trained without; start anew")
            load_trained(teacher.model, content["teacher"])
        runner.optimizer.load_state_dict(content["optimizer"])
        if runner.scaler:
            runner.scaler.load_state_dict(content["scaler"])
        runner.evaluation.best = content["best"]
        stores = content["stores"][get_rank()]
        if stores["embeddings"] is not None:
            self.embeddings.rollback(stores["embeddings"])
        if self.connections is not None:
            self.connections.rollback(content["stores"][0]["connections"])
