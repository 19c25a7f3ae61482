"""What the parts of a runner (state, evaluation, report) know of the run."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import torch
from lavis.common.config import Config
from lavis.models.base_model import BaseModel
from omegaconf import DictConfig
from torch import nn

from lavis_mafa.data.splits import TrainSplit
from lavis_mafa.datasets.lavis_captions import Splits
from lavis_mafa.runners.checkpoint import Changed

Results = dict[str, object]  # what results.json holds


@dataclass(frozen=True)
class Run:
    """A run as its config and data describe it; nothing in it changes while the run trains, but the weights.

    Attributes:
        name: of the data set.
        folder: run.output_dir, resolved.
        result_dir: where predictions are kept, below it.
        config: LAVIS' Config.
        network: the model, not wrapped for several processes.
        splits: the data set's splits by name.
        evaluate_only: nothing is trained.
        changes: the settings that resumes changed; known once the run has resumed.
    """

    name: str
    folder: Path
    result_dir: Path
    config: Config
    network: BaseModel
    splits: Splits
    device: torch.device
    evaluate_only: bool
    valid_splits: list[str]
    test_splits: list[str]
    changes: list[Changed] = field(default_factory=list)

    @property
    def settings(self) -> DictConfig:
        """The section `run` of the config."""
        return self.config.run_cfg

    @property
    def train_set(self) -> TrainSplit:
        return self.splits["train"]


@dataclass
class Best:
    """The epoch with the highest mean recall so far, -1 before the first."""

    epoch: int = -1
    value: float = -1.0


@dataclass(frozen=True)
class Learner:
    """What learns, and so what a checkpoint brings back."""

    network: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler | None
    best: Best = field(default_factory=Best)
