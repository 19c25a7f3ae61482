"""What the ITC learns beside labels and connections, by name (`model.mafa.targets`); a plugin may add to TARGETS.

    @TARGETS.add("labels_alone")
    @Targets
    def labels_alone(step: ItcStep) -> Rows: ...

Tested in tests/models/test_targets.py and tests/jobs/test_plugins.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from torch import Tensor

from lavis_mafa.common.registry import Registry
from lavis_mafa.core import losses
from lavis_mafa.core.pairs import SettledPairs

Rows = tuple[Tensor, Tensor]  # (B, W) each, image→text and text→image; a row of targets sums to 1


class TargetSettings(Protocol):
    """What targets read of MafaSettings, which in turn looks up their names here."""

    @property
    def label_smoothing(self) -> float: ...

    @property
    def consistency(self) -> float: ...

    def smoothing_at(self, epoch: int) -> float: ...


@dataclass(frozen=True)
class ItcStep:
    """What target rows are made of.

    epoch: from 0. settled: the pairs whose connections are targets. known_BW: own and known positives. first_col: the
    first of this rank's own columns.
    teacher: logits of the momentum model, and the weight of its word; None without one.
    """

    settings: TargetSettings
    epoch: int
    settled: SettledPairs
    known_BW: Tensor
    first_col: int
    teacher: tuple[Rows, float] | None = None

    def labels(self, alpha: float = 0.0) -> Rows:
        """Own pairs, known positives and connections, smoothed by S-ITC's alpha, at 0 by `label_smoothing`."""
        smoothing = alpha, self.settings.label_smoothing
        return losses.managed_itc_targets(self.settled, self.known_BW, self.first_col, *smoothing)


@dataclass(frozen=True)
class Targets:
    """One way to set the targets.

    rows: of a step. needs_teacher: a moving average of the model is kept, and `ItcStep.teacher` is there.
    beside: logits of both directions → (weight, rows) of a second loss on the same logits, loss_{name}.
    """

    rows: Callable[[ItcStep], Rows]
    needs_teacher: bool = False
    beside: Callable[[TargetSettings, Tensor, Tensor], tuple[float, Rows]] | None = None


TARGETS: Registry[Targets] = Registry("kind of targets")


@TARGETS.add("s_itc")
@Targets
def s_itc(step: ItcStep) -> Rows:
    """MAFA's smoothed ITC."""
    return step.labels(step.settings.smoothing_at(step.epoch))


@TARGETS.add("one_hot")
@Targets
def one_hot(step: ItcStep) -> Rows:
    """Labels alone."""
    return step.labels()


@TARGETS.add("momentum")
@partial(Targets, needs_teacher=True)
def momentum(step: ItcStep) -> Rows:
    """What a moving average of the model says (ALBEF, arXiv 2107.07651, section 3.3)."""
    assert step.teacher is not None
    (i2t_BW, t2i_BW), weight = step.teacher
    own_i2t_BW, own_t2i_BW = step.labels()
    return losses.distilled(own_i2t_BW, i2t_BW, weight), losses.distilled(own_t2i_BW, t2i_BW, weight)


def _consistency(settings: TargetSettings, logits_i2t_BW: Tensor, logits_t2i_BW: Tensor) -> tuple[float, Rows]:
    return settings.consistency, losses.consistency_targets(logits_i2t_BW, logits_t2i_BW)


@TARGETS.add("consistency")
@partial(Targets, beside=_consistency)
def consistency(step: ItcStep) -> Rows:
    """Labels, and a loss that draws the two directions together (GRIT-VLP, arXiv 2208.04060)."""
    return step.labels()
