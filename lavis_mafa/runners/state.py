"""What a runner commits and resumes from: plans, journal, checkpoints.

Order at a commit: flush the stores, write the plan, checkpoint last. A checkpoint names the plan and the committed
parts of every store; what was written after it is dropped on resume.
"""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import torch
from torch.utils.tensorboard import SummaryWriter

from lavis_mafa.common.artifacts import sweep
from lavis_mafa.common.ranks import barrier, gathered, get_rank, get_world_size, is_main_process
from lavis_mafa.common.threads import keep_threads
from lavis_mafa.core.neighbors import IntArray
from lavis_mafa.core.plan import Plan, RandomPlanner
from lavis_mafa.models.text import vocabulary
from lavis_mafa.models.trained import load_trained, size, trained_state
from lavis_mafa.runners import checkpoint
from lavis_mafa.runners.changes import accept_changes
from lavis_mafa.runners.checkpoint import Checkpoint, Learned, Stored
from lavis_mafa.runners.image_files import ImageStamp, changed_images
from lavis_mafa.runners.journal import Journal
from lavis_mafa.runners.run import Learner, Run

OWN_FOLDERS = ("connections", "embeddings", "tokens")


class RunState:
    """The files of a run below its folder. A subclass adds stores (`open_stores` … `roll_back`) and its own planner.

    images: what the image files are, where a store depends on them; images_changed: since the checkpoint.
    """

    images: ImageStamp | None = None
    images_changed = False

    def __init__(self, run: Run, learner: Learner) -> None:
        self.run, self.learner, self.folder, self.settings = run, learner, run.folder, run.settings
        table = run.train_set.table
        self.image_id_N = table.image_id
        self.saved_at = time.monotonic()  # the last checkpoint, or this start
        self.expected = {
            "data": table.fingerprint,
            "world_size": get_world_size(),
            "vocabulary": vocabulary(run.network.tokenizer),
            "network": size(run.network),
        }
        self.planner = RandomPlanner(
            batch_size=int(self.settings.batch_size_train),
            world=get_world_size(),
            seed=int(self.settings.seed),
            fingerprint=table.fingerprint,
        )

    # ---- what a subclass stores beside plans and checkpoints; rank by rank

    def open_stores(self, committed: list[Stored]) -> None:
        """Open what every rank committed (a list by rank). Raises ValueError: gone, torn or another run's."""

    def start_stores(self) -> None:
        """Open empty stores; what a killed run left before its first checkpoint is dropped."""

    def roll_back(self, committed: list[Stored]) -> None:
        """Drop what was stored after the commit."""

    def commit_stores(self, step: int) -> Stored:
        """Flush, and say what this rank has stored. step: 0 at the end of an epoch."""
        return {}

    def plan(self, epoch: int, before: Plan | None, left_out: IntArray) -> Plan:
        """The plan of an epoch; `before`: that of the epoch before; left_out: records that cannot be read. Called by
        every rank."""
        lead = None if before is None else before.untrained
        return self.planner.plan(epoch, len(self.image_id_N), lead, self.image_id_N, left_out)

    def bad_records(self) -> IntArray:
        """The records whose image a rank could not read so far, rising. Called by every rank."""
        of_ranks = gathered([int(record) for record in self.run.train_set.bad_records])
        return np.unique(np.array([record for records in of_ranks for record in records], np.int64))

    # ---- where a run begins

    def resume(self, asked: str | None) -> tuple[int, int]:
        """(epoch, step) to go on from: the checkpoint's that run.resume_ckpt_path asks for, or a fresh run's start."""
        path = checkpoint.choose(self.folder, asked)
        content = checkpoint.load(path, self.expected, self._check_files) if path else None
        epoch, step = (int(content["epoch"]), int(content["step"])) if content else (0, 0)
        if content is not None:
            allowed = self.settings.get("resume_changes") == "allow"
            self.run.changes[:] = accept_changes(content, self.run.config.to_dict(), allowed, self.images)
            self.images_changed = bool(changed_images(content.get("images"), self.images))
        barrier()  # every rank has found its files whole
        if is_main_process():
            checkpoint.drop_later(self.folder, epoch, step)
            for place in (self.folder, *map(self.folder.joinpath, OWN_FOLDERS)):
                sweep(place)
        barrier()
        self.journal = self._open_journal(epoch, step)
        if content is not None:
            self._load(content)
        else:
            self.start_stores()
            first = self.plan(0, None, np.empty(0, np.int64))
            if is_main_process():
                first.save(self._plan_path(0))
        barrier()
        return epoch, step

    def _check_files(self, content: Checkpoint) -> None:
        """Raises ValueError if a plan or store that the checkpoint names is gone, torn or another run's."""
        self._read_plan(int(content["epoch"]))
        self.open_stores(content["stores"])

    def _open_journal(self, epoch: int, step: int) -> Journal:
        purge = {
            "purge_step": self.place(epoch, step)
        }  # TensorBoard hides what a killed run drew beyond the checkpoint
        journal = Journal(
            self.folder, SummaryWriter(self.folder / "tensorboard", **purge) if is_main_process() else None
        )
        journal.truncate(epoch, step)
        return journal

    def place(self, epoch: int, step: int) -> int:
        """Steps from the start of the run, for TensorBoard; an epoch that leaves records out may have fewer."""
        return epoch * (len(self.image_id_N) // (self.planner.batch_size * self.planner.world)) + step

    # ---- epochs

    def begin_epoch(self, epoch: int, step: int) -> Plan:
        """The plan of the epoch that is entered at `step`."""
        return self._read_plan(epoch)

    def finish_epoch(self, epoch: int, plan: Plan) -> None:
        """Plan the next epoch, checkpoint."""
        following = self.plan(epoch + 1, plan, self.bad_records())
        if is_main_process():
            following.save(self._plan_path(epoch + 1))
        self.save(epoch + 1, 0)

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
        """Stores first, checkpoint last."""
        own: Stored = {**self.commit_stores(step), "bad_records": [*self.run.train_set.bad_records]}
        of_ranks = gathered(own)
        if is_main_process():
            self.journal.flush()
            content = {**self.expected, "stores": of_ranks, **self.learned()}
            checkpoint.save(self.folder, epoch, step, content, keep=int(self.settings.get("keep_checkpoints", 2)))
        barrier()
        self.saved_at = time.monotonic()

    def learned(self) -> Learned:
        """Everything that training changes, and the config that it was trained by."""
        learner = self.learner
        return {
            "model": trained_state(learner.network),
            "optimizer": learner.optimizer.state_dict(),
            "scaler": learner.scaler.state_dict() if learner.scaler else None,
            "best": {"epoch": learner.best.epoch, "value": learner.best.value},
            "config": self.run.config.to_dict(),
            "threads": torch.get_num_threads(),
            "changes": self.run.changes,
            "images": self.images,
        }

    def take_back(self, content: Checkpoint) -> None:
        """What `learned` gave."""
        learner = self.learner
        load_trained(learner.network, content["model"])
        learner.optimizer.load_state_dict(content["optimizer"])
        if learner.scaler:
            learner.scaler.load_state_dict(content["scaler"] or {})
        learner.best.epoch, learner.best.value = content["best"]["epoch"], content["best"]["value"]

    def _load(self, content: Checkpoint) -> None:
        keep_threads(content.get("threads"))
        self.take_back(content)
        self.run.train_set.bad_records = content["stores"][get_rank()].get("bad_records", [])
        self.roll_back(content["stores"])
