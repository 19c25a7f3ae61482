"""`retrieval_runner`: fine-tuning for retrieval by the model's own loss."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lavis.common.registry import registry
from torch import nn

from lavis_mafa.runners.evaluation import RunEvaluation
from lavis_mafa.runners.stage2 import Stage2Runner


@registry.register_runner("retrieval_runner")
class RetrievalRunner(Stage2Runner):
    """Trains by the model's own loss on random batches, and evaluates retrieval as `grit_runner` does."""

    def __init__(self, cfg: Any, task: Any, model: nn.Module, datasets: Mapping[str, Any], job_id: str = "") -> None:
        super().__init__(cfg, task, model, datasets, job_id)
        self.evaluation = RunEvaluation(self)
