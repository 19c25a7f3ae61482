"""`retrieval_runner`: fine-tuning for retrieval by the model's own loss."""

from __future__ import annotations

from lavis.common.registry import registry

from lavis_mafa.runners.resumable import ResumableRunner
from lavis_mafa.runners.retrieval_evaluation import RetrievalEvaluation
from lavis_mafa.tasks.loop import Losses


@registry.register_runner("retrieval_runner")
class RetrievalRunner(ResumableRunner[Losses]):
    """Random batches, the model's own loss, and retrieval evaluated as `grit_runner` does."""

    def build_evaluation(self) -> RetrievalEvaluation:
        return RetrievalEvaluation(self.run)
