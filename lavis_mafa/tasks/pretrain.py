"""`mafa_pretrain`: LAVIS' task for pre-training with MAFA. It builds the data, the judge and the momentum teacher."""

from __future__ import annotations

import torch
from lavis.common.config import Config
from lavis.common.registry import registry
from omegaconf import DictConfig

from lavis_mafa.core.scorer import PairScorer
from lavis_mafa.core.settings import MafaSettings
from lavis_mafa.data.dataset import PairDataset
from lavis_mafa.datasets.lavis_captions import Splits, gathered
from lavis_mafa.models.base import MafaOutput
from lavis_mafa.models.protocols import Student
from lavis_mafa.models.teacher import Teacher
from lavis_mafa.scorers.registry import ScorerRequest, build_scorer, missing_view
from lavis_mafa.tasks.loop import LoopTask


@registry.register_task("mafa_pretrain")
class MafaPretrainTask(LoopTask):
    """GRIT batches in, losses out; planning, stores and checkpoints are the runner's."""

    host_fields = ("index", "image_id", "text_id", "text_row")  # mining looks pairs up on the CPU

    def build_datasets(self, cfg: Config) -> dict[str, Splits]:
        """A record of LAVIS' own data is an image: a batch of look-alikes would be one image's captions otherwise."""
        return gathered(super().build_datasets(cfg), cfg.datasets_cfg, int(self.run_cfg.seed))

    def output_of(self, output: MafaOutput) -> MafaOutput:
        return output

    def build_scorer(self, student: Student, train_set: PairDataset, device: torch.device) -> PairScorer | None:
        """The judge that the config names; `train_set` adds its view of a record where the batch's will not do.

        Raises:
            ValueError: the settings need a judge and none is configured, or it cannot be built.
        """
        refuse_without_judge(student.mafa, self.run_cfg)
        if not student.mafa.asks_scorer:
            return None
        request = ScorerRequest(self.run_cfg.con_d, "run.con_d", device, student.mafa, train_set, student)
        scorer = build_scorer(request)
        if view := missing_view(scorer, train_set):
            train_set.judge_view = view
        return scorer

    def build_teacher(self, student: Student) -> Teacher | None:
        """The momentum copy of a student that learns from one."""
        return Teacher(student) if student.mafa.needs_teacher else None


def refuse_without_judge(mafa: MafaSettings, run: DictConfig) -> None:
    """ValueError where the settings ask a judge and the run names none."""
    if mafa.asks_scorer and not run.get("con_d"):
        raise ValueError(
            f"model.mafa.action is {mafa.action!r} but run.con_d names no judge; give a matching network "
            "(run_scripts/mafa/train_con_d.sh trains it), or set model.mafa.action: keep for hard negatives alone"
        )
