"""`grit_runner`: plans its batches from what the epoch before learned (GRIT), and mines connections in them (MAFA)."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from lavis.common.registry import registry
from torch import Tensor

from lavis_mafa.common.ranks import is_main_process
from lavis_mafa.core.batch import Batch
from lavis_mafa.core.grit import SAMPLINGS
from lavis_mafa.core.miner import ConnectionMiner
from lavis_mafa.core.scorer import PairScorer, SeeingScorer, gives_cosines
from lavis_mafa.data.dataset import PairDataset
from lavis_mafa.data.images import BadImageError
from lavis_mafa.evaluation.judge_check import JudgeCheck, report_judge, scores_of
from lavis_mafa.models.base import MafaOutput
from lavis_mafa.runners.grit_state import GritState
from lavis_mafa.runners.resumable import ResumableRunner
from lavis_mafa.runners.retrieval_evaluation import RetrievalEvaluation
from lavis_mafa.runners.step_metrics import step_row
from lavis_mafa.runners.token_cache import attach_judge_texts
from lavis_mafa.scorers.registry import judge_of


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
        attach_judge_texts(self.scorer, self.token_folder)
        self.evaluation.judge = self._check_judge()
        network.teacher = self.task.build_teacher(network)
        return GritState(self.run, self.learner(), self.scorer)

    def _check_judge(self) -> JudgeCheck | None:
        """What the judge says of annotated pairs, before anything is mined; of one that needs no model in training."""
        section, scorer = self.run.settings.get("con_d"), self.scorer
        data: PairDataset = self.run.splits["train"]
        if not isinstance(scorer, SeeingScorer) or judge_of(section).training_only or not is_main_process():
            return None
        try:
            score, rule = scores_of(scorer, data, self.device), self.run.network.mafa
            return report_judge(score, data.table, rule, cosines=gives_cosines(scorer))
        except BadImageError as error:
            if data.on_bad_image != "replace":
                raise
            logging.warning("the judge is not checked: %s", error)
            return None

    def resume(self) -> tuple[int, int]:
        place = super().resume()
        miner = ConnectionMiner(self.run.network.mafa, self.scorer, self.state.connections)
        self.run.network.miner = self.evaluation.miner = miner
        return place

    def keep_step(self, samples: Batch, kept: Mapping[str, Tensor]) -> None:
        """Every rank's ITC embeddings, from which the next epoch is planned."""
        if self.state.grit:
            self.state.embeddings.write(samples["index"], kept["image_embed"], kept["text_embed"])

    def step_row(self, samples: Batch, output: MafaOutput) -> dict[str, float | None]:
        return step_row(samples, output, self.run.train_set.truth)
