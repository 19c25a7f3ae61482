"""A student's momentum copy, from which ALBEF's distillation learns. Tested in tests/models/test_targets.py."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from lavis_mafa.core.batch import Batch


@dataclass
class Lesson:
    """What the teacher makes of a batch, and the weight of its word."""

    model: Any  # the momentum copy
    encoded: Any  # models.base.Encoded
    alpha: float


def cut_from_student(copied: nn.Module, student: nn.Module) -> None:
    """Gradient checkpointing (fairscale) gives a module a forward that, copied, still runs the original's weights."""
    for module in set(copied.modules()) - set(student.modules()):
        module.__dict__.pop("forward", None)


class Teacher:
    """A moving average of the student's weights (ALBEF, arXiv 2107.07651, section 3.3), in eval mode.

    No part of the student: its weights stand in no state_dict of the model, a checkpoint has a key for them. A frozen
    tower is the student's own.
    """

    def __init__(self, student: Any) -> None:
        shared = [student.tokenizer, student.miner]
        if student.tower_is_frozen:
            shared.append(student.visual_encoder)
        self.model = copy.deepcopy(student, {id(part): part for part in shared})
        cut_from_student(self.model, student)
        self.model.requires_grad_(False).eval()

    @torch.no_grad()
    def lesson(self, student: Any, samples: Batch) -> Lesson:
        """Follow the student by one step, then encode the batch."""
        self.follow(student)
        steps = max(int(samples.get("num_iters_per_epoch", 1)), 1)
        epochs = int(samples.get("epoch", 0)) + int(samples.get("iters", 0)) / steps
        return Lesson(self.model, self.model.encode(samples), student.mafa.distillation_at(epochs))

    @torch.no_grad()
    def follow(self, student: nn.Module) -> None:
        """weights · ema + the student's · (1 - ema); running statistics are the student's."""
        keep = student.mafa.ema
        for own, theirs in zip(self.model.parameters(), student.parameters(), strict=True):
            if own is not theirs:
                own.mul_(keep).add_(theirs, alpha=1 - keep)
        for own, theirs in zip(self.model.buffers(), student.buffers(), strict=True):
            own.copy_(theirs)
