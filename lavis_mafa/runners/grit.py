"""`grit_runner`: plans its batches from what the epoch before learned (GRIT), and mines connections in them (MAFA)."""

from __future__ import annotations

from lavis.common.registry import registry

from lavis_mafa.core.batch import Batch
from lavis_mafa.core.grit import SAMPLINGS
from lavis_mafa.core.miner import ConnectionMiner
from lavis_mafa.core.scorer import PairScorer
from lavis_mafa.models.base import MafaOutput
from lavis_mafa.runners.grit_state import GritState
from lavis_mafa.runners.resumable import ResumableRunner
from lavis_mafa.runners.retrieval_evaluation import RetrievalEvaluation
from lavis_mafa.runners.step_metrics import step_row


@registry.register_runner("grit_runner")
class GritRunner(ResumableRunner[MafaOutput]):
    """Trains a `mafa_*` model: plans, stores and mining on top of ResumableRunner."""

    samplings = SAMPLINGS
    state: GritState
    evaluation: RetrievalEvaluation

    def build_evaluation(self) -> RetrievalEvaluation:
        return RetrievalEvaluation(self.run)

    def build_state(self) -> GritState:
        network = self.run.network
        self.scorer: PairScorer | None = self.task.build_scorer(network, self.run.train_set, self.device)
        network.teacher = self.task.build_teacher(network)
        return GritState(self.run, self.learner(), self.scorer)

    def resume(self) -> tuple[int, int]:
        place = super().resume()
        miner = ConnectionMiner(self.run.network.mafa, self.scorer, self.state.connections)
        self.run.network.miner = self.evaluation.miner = miner
        return place

    def keep_step(self, samples: Batch, output: MafaOutput) -> None:
        """Every rank's ITC embeddings, from which the next epoch is planned."""
        if self.state.grit:
            self.state.embeddings.write(samples["index"], output.image_embed, output.text_embed)

    def step_row(self, samples: Batch, output: MafaOutput) -> dict[str, float | None]:
        return step_row(samples, output, self.run.train_set.truth)
