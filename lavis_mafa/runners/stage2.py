"""`stage2_runner`: trains what stands before a frozen language model, and evaluates what it then says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lavis.common.registry import registry
from torch import nn

from lavis_mafa.runners.answer_evaluation import AnswerEvaluation
from lavis_mafa.runners.grit import GritRunner
from lavis_mafa.runners.state import RunState


@registry.register_runner("stage2_runner")
class Stage2Runner(GritRunner):
    """GritRunner with random batches: the same checkpoints, resume and CPU, without a Con-D."""

    def __init__(self, cfg: Any, task: Any, model: nn.Module, datasets: Mapping[str, Any], job_id: str = "") -> None:
        if cfg.run_cfg.get("sampling") != "random":
            raise ValueError("run.sampling: a language model plans no batches; set it to random")
        super().__init__(cfg, task, model, datasets, job_id)
        self.evaluation = AnswerEvaluation(self)

    def train(self) -> dict[str, Any]:
        """Train to run.max_epoch unless run.evaluate, then predict the test splits, judge and report."""
        if self.evaluate_only:
            return self.evaluation.report()
        self.splits["train"].truth = None  # of pairs, which nothing here mines
        self.state = RunState(self, None)
        first, step = self.state.resume()
        for epoch in range(first, int(self.run_cfg.get("stop_epoch") or self.max_epoch)):
            self._run_epoch(epoch, step)
            step = 0
        self.state.journal.close()
        return self.evaluation.report()
