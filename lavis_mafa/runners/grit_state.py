"""What GRIT and MAFA keep beside plans and checkpoints: every epoch's embeddings, every scored pair, the teacher."""

from __future__ import annotations

import logging

from omegaconf import DictConfig

from lavis_mafa.common.ranks import barrier, gathered, get_rank, get_world_size, is_main_process
from lavis_mafa.core.connections import Committed, ConnectionStore
from lavis_mafa.core.embeddings import EmbeddingStore
from lavis_mafa.core.grit import GritPlanner
from lavis_mafa.core.neighbors import IntArray
from lavis_mafa.core.plan import Plan
from lavis_mafa.core.scorer import PairScorer
from lavis_mafa.models.teacher import Teacher
from lavis_mafa.models.trained import load_trained, trained_state
from lavis_mafa.runners.checkpoint import Checkpoint, Learned, Stored
from lavis_mafa.runners.image_files import image_stamp
from lavis_mafa.runners.run import Learner, Run
from lavis_mafa.runners.state import RunState

LEAST_RETURNING = 0.005  # of an epoch's pairs: below, looking all of them up costs more than the few save


def returning_share(run: DictConfig, records: int) -> float:
    """About what share of an epoch's judged pairs a later epoch judges again: M / N, of random batches B / N.

    Measured with fixed embeddings (N = 8,000): 15 to 37 % at M = N / 4, 3 to 10 % at M = N / 16.
    """
    grit = run.get("sampling", "grit") == "grit"
    space = run.get("search_space", "all") if grit else run.batch_size_train
    return 1.0 if space == "all" else min(1.0, int(space) / records)


def keeps_scores(run: DictConfig, records: int) -> bool:
    """run.store_scores, or where it is null whether stored scores would serve."""
    asked = run.get("store_scores")
    return returning_share(run, records) >= LEAST_RETURNING if asked is None else bool(asked)


class GritState(RunState):
    """RunState with stores. A rank's embeddings are its own, the connections those of all ranks.

    connections: open after `resume`; None without a scorer whose scores may be stored.
    """

    def __init__(self, run: Run, learner: Learner, scorer: PairScorer | None) -> None:
        super().__init__(run, learner)
        settings, planner, records = self.settings, self.planner, len(self.image_id_N)
        self.grit = settings.get("sampling", "grit") == "grit"
        self._keeps_scores = scorer is not None and scorer.fingerprint is not None  # those that age are not kept
        if self._keeps_scores and not keeps_scores(settings, records):
            self._keeps_scores = False
            logging.info(
                "scores of judged pairs are not stored: about %.2g %% of them would come back in a later epoch (search "
                "space / records); run.store_scores=true keeps them, and shows connections at the end",
                100 * returning_share(settings, records),
            )
        if self.grit or self._keeps_scores:  # one rank looks at the files: there may be millions, on a network disk
            found = image_stamp(run.train_set.open_image) if is_main_process() else None
            self.images = gathered(found)[0]
        self.expected["scorer"] = (scorer.fingerprint or "self") if scorer else "none"
        self.connections: ConnectionStore | None = None
        width = run.network.embed_dim if self.grit else 1
        place = planner.fingerprint, get_rank(), get_world_size()
        self.embeddings = EmbeddingStore(self.folder / "embeddings", records, width, *place)
        self.grit_planner = GritPlanner(
            batch_size=planner.batch_size,
            world=planner.world,
            search_space=settings.get("search_space", "all"),
            seed=planner.seed,
            sampling=settings.get("sampling", "grit"),
            skip_nearest=int(settings.get("skip_nearest", 0)),
            quantile=float(settings.get("quantile", 1.0)),
            fingerprint=planner.fingerprint,
            spread=True,
        )

    # ---- stores

    def _open_connections(self, committed: Committed | None) -> ConnectionStore | None:
        if not self._keeps_scores:
            return None
        prints = f"{self.expected['data']}:{self.expected['scorer']}"
        return ConnectionStore(self.folder / "connections", prints, get_rank(), committed)

    def open_stores(self, committed: list[Stored]) -> None:
        own = committed[get_rank()]["embeddings"]
        if own is not None:
            self.embeddings.check(own)
        self.connections = self._open_connections(committed[0]["connections"])

    def start_stores(self) -> None:
        self.connections = self._open_connections(None)
        if self.connections is not None:
            self._forget_scores(self.connections)

    def _forget_scores(self, connections: ConnectionStore) -> None:
        state = connections.commit()
        barrier()  # every rank has looked before the first one deletes
        connections.rollback({**state, "generation": 0, "rows": {}})

    def roll_back(self, committed: list[Stored]) -> None:
        own = committed[get_rank()]["embeddings"]
        if own is not None:
            self.embeddings.rollback(own)
        kept = committed[0]["connections"]
        if self.connections is not None and kept is not None:
            self.connections.rollback(kept)
            if self.images_changed:  # they are scored anew
                self._forget_scores(self.connections)

    def commit_stores(self, step: int) -> Stored:
        if self.connections is not None:
            self.connections.flush()
            barrier()  # so that every rank's state names the parts of all
        return {
            "embeddings": self.embeddings.commit() if self.grit and step else None,
            "connections": self.connections.commit() if self.connections is not None else None,
        }

    # ---- epochs

    def begin_epoch(self, epoch: int, step: int) -> Plan:
        plan = super().begin_epoch(epoch, step)
        if step == 0 and self.grit:
            self.embeddings.begin_epoch(epoch, plan.steps * plan.batch_size)
        return plan

    def finish_epoch(self, epoch: int, plan: Plan) -> None:
        """Plan the next epoch from the embeddings of this one, merge the ranks' connections, checkpoint."""
        if self.grit:
            self.embeddings.commit()
            barrier()
        if self.connections is not None:
            self._merge_connections(self.connections)
        super().finish_epoch(epoch, plan)

    def plan(self, epoch: int, before: Plan | None, left_out: IntArray) -> Plan:
        grit = self.grit and before is not None and epoch >= int(self.settings.get("random_epochs", 1))
        embeddings = self.embeddings.gather(epoch - 1) if grit else None
        lead = None if before is None else before.untrained
        return self.grit_planner.plan(epoch, embeddings, len(self.image_id_N), lead, self.image_id_N, left_out)

    def _merge_connections(self, connections: ConnectionStore) -> None:
        connections.flush()
        barrier()
        if is_main_process():
            connections.merge()
        barrier()
        connections.reload()

    # ---- checkpoints

    def _teacher(self) -> Teacher | None:
        return getattr(self.run.network, "teacher", None)

    def learned(self) -> Learned:
        teacher = self._teacher()
        return {**super().learned(), "teacher": trained_state(teacher.model) if teacher else None}

    def take_back(self, content: Checkpoint) -> None:
        super().take_back(content)
        if teacher := self._teacher():
            learned = content.get("teacher")
            if learned is None:
                raise ValueError("model.mafa.targets is momentum, but the checkpoint was trained without; start anew")
            load_trained(teacher.model, learned)
