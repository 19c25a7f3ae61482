"""Retrieval: recall of the validation splits every epoch; recall, human judgments and zero-shot accuracy at the end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

import torch
from omegaconf import DictConfig

from lavis_mafa.common.ranks import barrier, is_main_process
from lavis_mafa.core.miner import ConnectionMiner
from lavis_mafa.core.settings import MafaSettings
from lavis_mafa.datasets.lavis_captions import Splits
from lavis_mafa.evaluation.eccv import CocoIds, coco_ids, refuse_other_split
from lavis_mafa.evaluation.judge_check import JudgeCheck, report_judge, scores_of_head
from lavis_mafa.evaluation.judged_pairs import JudgedPairs, read_judged_pairs
from lavis_mafa.evaluation.judgments import configured_judge, evaluate_judgments
from lavis_mafa.evaluation.retrieval import RetrievalFigures, evaluate_retrieval
from lavis_mafa.evaluation.test_set import TestSet, read_test_set
from lavis_mafa.openclip.zero_shot import zero_shot
from lavis_mafa.runners.evaluation import Evaluation
from lavis_mafa.runners.report import report_run
from lavis_mafa.runners.run import Results, Run


class Loading(TypedDict):
    """How an evaluation reads its samples."""

    batch_size: int
    workers: int
    device: torch.device


class RetrievalEvaluation(Evaluation):
    """Evaluates retrieval. `miner`, `judge`: who mined in this run and what it says of annotated pairs, for the report;
    None where nothing mined."""

    miner: ConnectionMiner | None = None
    judge: JudgeCheck | None = None

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        # now, so that what is wrong with a file shows before hours of training
        self._judged = judged_pairs_of(run.settings, run.test_splits, run.splits)
        self._coco = coco_ids_of(run.settings, run.test_splits, run.splits)
        self._test_set = test_set_of(run.settings, run.test_splits, run.splits)

    def validate(self) -> dict[str, float]:
        """Recall by ITC alone: quick, and it shows the curve."""
        row: dict[str, float] = {}
        for split in self.run.valid_splits:
            found = self._retrieval(split, k_test=0)["itc"]["annotation"]
            row.update(
                {f"{split}_{way}_{name}": value for way, values in found.items() for name, value in values.items()}
            )
            row[f"{split}_r_mean"] = sum(value for values in found.values() for value in values.values()) / 6
        return row

    def report(self) -> Results:
        """Evaluate the best weights (the last without validation), keep them as model.safetensors, and report."""
        run = self.run
        if not run.evaluate_only:
            self.keep_final()
        k_test = int(run.settings.get("k_test", 0))
        results: Results = {split: self._retrieval(split, k_test, self._coco.get(split)) for split in run.test_splits}
        checks = {"judge_check": self.judge, "matching_head": self._matching_head()}
        judgments = self._judgments()
        if is_main_process():
            results = report_run(run, self.miner, results, judgments, self._zero_shot(), checks)
        barrier()
        return results

    def _loading(self) -> Loading:
        settings = self.run.settings
        return {
            "batch_size": int(settings.batch_size_eval),
            "workers": int(settings.num_workers),
            "device": self.run.device,
        }

    def _retrieval(self, split: str, k_test: int, coco: CocoIds | None = None) -> RetrievalFigures:
        dataset = self.run.splits[split]
        test_set = self._test_set if split in self.run.test_splits[:1] else None
        return evaluate_retrieval(
            self.run.network, dataset, k_test=k_test, coco=coco, test_set=test_set, **self._loading()
        )

    def _matching_head(self) -> JudgeCheck | None:
        """How the model's own head treats annotated pairs of the first test split: it may become a Con-D."""
        run = self.run
        if not getattr(run.network, "has_itm", False) or not run.test_splits:
            return None
        dataset = run.splits[run.test_splits[0]]
        score = scores_of_head(run.network, dataset, **self._loading())
        rule = getattr(run.network, "mafa", MafaSettings())
        return report_judge(score, dataset.table, rule, "the matching head, as a Con-D")

    def _zero_shot(self) -> dict[str, float] | None:
        """Classification of run.zero_shot, an image folder, by a model of open_clip."""
        asked = self.run.settings.get("zero_shot")
        if not asked:
            return None
        network, split = self.run.network, self.run.splits[self.run.test_splits[0]]
        return zero_shot(network.clip, network.tokenizer, split.vis_processor, **asked, **self._loading())

    def _judgments(self) -> dict[str, dict[str, dict[str, float]]] | None:
        if self._judged is None:
            return None
        run = self.run
        dataset = run.splits[run.test_splits[0]]
        judge = configured_judge(run.network, run.settings.get("con_d"), dataset, run.device)
        return evaluate_judgments(run.network, dataset, self._judged, judge, **self._loading())


def judged_pairs_of(settings: DictConfig, test_splits: Sequence[str], splits: Splits) -> JudgedPairs | None:
    """What run.judged_pairs says of the first test split. Raises ValueError: a file that read_judged_pairs refuses."""
    file = settings.get("judged_pairs")
    if not file:
        return None
    if not test_splits:
        raise ValueError("run.judged_pairs is about the images of a test split; name it in run.test_splits")
    return read_judged_pairs(file, splits[test_splits[0]].table, settings.get("judged_threshold"))


def test_set_of(settings: DictConfig, test_splits: Sequence[str], splits: Splits) -> TestSet | None:
    """What run.test_set says of the first test split. Raises ValueError: a file that read_test_set refuses."""
    file = settings.get("test_set")
    if not file:
        return None
    if not test_splits:
        raise ValueError("run.test_set is about the images of a test split; name it in run.test_splits")
    return read_test_set(file, splits[test_splits[0]])


def coco_ids_of(settings: DictConfig, test_splits: Sequence[str], splits: Splits) -> dict[str, CocoIds]:
    """COCO's ids of every test split, where run.coco_captions asks for them. Raises ValueError: another data set."""
    file = settings.get("coco_captions")
    found = {split: coco_ids(splits[split], file) for split in test_splits} if file else {}
    for split, ids in found.items():
        refuse_other_split(split, ids)
    return found
