"""`mafa_pretrain`: LAVIS' task for pre-training with MAFA. It builds the data, the judge and the momentum teacher."""

from __future__ import annotations

from typing import Any

import torch
from lavis.common.registry import registry

from lavis_mafa.core.miner import PairScorer
from lavis_mafa.core.settings import MafaSettings
from lavis_mafa.datasets.lavis_captions import gathered
from lavis_mafa.models.base import MafaOutput
from lavis_mafa.models.teacher import Teacher
from lavis_mafa.scorers.bi_encoder import build_bi_encoder
from lavis_mafa.scorers.con_d import build_con_d, share_tower
from lavis_mafa.scorers.own_head import OwnHead
from lavis_mafa.scorers.verdict_file import FileScorer
from lavis_mafa.tasks.loop import LoopTask


@registry.register_task("mafa_pretrain")
class MafaPretrainTask(LoopTask):
    """GRIT batches in, losses out; planning, stores and checkpoints are the runner's."""

    def build_datasets(self, cfg: Any) -> dict[str, Any]:
        """A record of LAVIS' own data is an image: a batch of look-alikes would be one image's captions otherwise."""
        return gathered(super().build_datasets(cfg), cfg.datasets_cfg, int(self.run_cfg.seed))

    def output_of(self, output: MafaOutput) -> MafaOutput:
        return output

    def build_scorer(self, student: Any, train_set: Any, device: torch.device) -> PairScorer | None:
        """Con-D as the config asks for it, and the record's own view where the batch's will not do.

        Raises:
            ValueError: the settings need a Con-D and none is configured, or a matching head that the model has not.
        """
        if not student.mafa.asks_scorer:
            return None
        if not self.run_cfg.get("con_d"):
            raise ValueError(
                f"model.mafa.action is {student.mafa.action!r} but run.con_d names no matching network; give one "
                "(run_scripts/mafa/train_con_d.sh trains it), or set model.mafa.action: keep for hard negatives alone"
            )
        if self.run_cfg.con_d.get("arch") == "file":
            return _verdicts(self.run_cfg.con_d, train_set, student.mafa)
        if self.run_cfg.con_d.get("arch") == "self":
            if not student.has_itm:
                raise ValueError("run.con_d.arch is self, but the model has no matching head: name a matching network")
            return OwnHead(student)
        is_guide = self.run_cfg.con_d.get("arch") == "open_clip"
        scorer = (build_bi_encoder if is_guide else build_con_d)(self.run_cfg.con_d, device)
        same_view = repr(scorer.vis_processor.transform) == repr(train_set.vis_processor.transform)
        if same_view:
            share_tower(scorer, student)
        tokens_of_another = train_set.tokens is not None and not scorer.shares_tower
        if not same_view or tokens_of_another:
            # a score on one augmentation may not be stored: the record's clean view is scored (projects/mafa/README.md)
            train_set.con_d_processor = scorer.vis_processor
        return scorer

    def build_teacher(self, student: Any) -> Teacher | None:
        """The momentum copy of a student that learns from one."""
        return Teacher(student) if student.mafa.targets == "momentum" else None


def _verdicts(con_d: Any, train_set: Any, rule: MafaSettings) -> FileScorer:
    """Verdicts mined offline (`run.con_d: {arch: file, path: …/connections.parquet}`)."""
    if not con_d.get("path"):
        raise ValueError(
            "run.con_d: arch file needs path, the connections.parquet that `python -m lavis_mafa.mine` wrote"
        )
    scorer = FileScorer.read(con_d.path, rule.low, rule.high)
    if not scorer.covers(train_set.table.image_id):
        raise ValueError(
            f"run.con_d.path: {con_d.path} holds no image of the training data; mine that data, under its dataset name"
        )
    return scorer
