"""`stage2_runner`: trains what stands before a frozen language model, and evaluates what it answers."""

from __future__ import annotations

from lavis.common.registry import registry

from lavis_mafa.runners.answer_evaluation import AnswerEvaluation
from lavis_mafa.runners.resumable import ResumableRunner
from lavis_mafa.tasks.loop import Losses


@registry.register_runner("stage2_runner")
class Stage2Runner(ResumableRunner[Losses]):
    """Random batches, the task's own loss, and answers judged at the end."""

    def build_evaluation(self) -> AnswerEvaluation:
        return AnswerEvaluation(self.run, self.task)
