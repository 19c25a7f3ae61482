"""Fine-tuning LAVIS' ALBEF models: tasks for retrieval, VQA by ranking and NLVR2.

VQA and NLVR2 run under `stage2_runner`, which trains by a model's own loss and judges what it says.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import torch
from lavis.common.config import Config
from lavis.common.registry import registry
from lavis.datasets.datasets.nlvr_datasets import NLVRDataset
from lavis.datasets.datasets.vqa_datasets import VQADataset
from lavis.models.base_model import BaseModel
from lavis.tasks.base_task import BaseTask
from torch import Tensor

from lavis_mafa.common.artifacts import reading
from lavis_mafa.common.hashing import digest
from lavis_mafa.core.batch import Batch
from lavis_mafa.data.dataset import PairDataset
from lavis_mafa.data.downstream import AnsweredQuestions, Statements, TextAssignment
from lavis_mafa.data.images import ImageFiles
from lavis_mafa.data.rules import DEFAULTS, FileRules
from lavis_mafa.datasets.lavis_captions import Splits, gathered
from lavis_mafa.datasets.statements import from_lavis
from lavis_mafa.evaluation.ground_truth import question_rows
from lavis_mafa.tasks.loop import LoopTask, Losses
from lavis_mafa.tasks.vqa import VqaAnswers

LOSSES = ("loss_itc", "loss_itm", "loss_mlm")
TRUTH_WORDS = ("False", "True")


@registry.register_task("mafa_finetune")
class MafaFinetuneTask(LoopTask):
    """Trains by the model's own loss: LAVIS' albef_retrieval, and its albef_pretrain."""

    def build_datasets(self, cfg: Config) -> dict[str, Splits]:
        """A caption is a record, as LAVIS counts an epoch."""
        return gathered(
            super().build_datasets(cfg), cfg.datasets_cfg, int(self.run_cfg.seed), one_caption_a_record=True
        )

    def output_of(self, output: Mapping[str, Tensor]) -> Losses:
        return Losses(output["loss"], {name: output[name] for name in LOSSES if output.get(name) is not None})

    def _lone(self, cfg: Config) -> tuple[str, Splits]:
        datasets = BaseTask.build_datasets(self, cfg)
        if len(datasets) != 1:
            raise ValueError(f"datasets: run.task {self.run_cfg.task} takes one data set, not {', '.join(datasets)}")
        return next(iter(datasets.items()))


@registry.register_task("mafa_albef_vqa")
class MafaRankVqaTask(VqaAnswers, MafaFinetuneTask):
    """LAVIS' `vqa` with inference_method rank: the likeliest of an answer list (ALBEF, section 4)."""

    answer_list: list[str]

    def build_datasets(self, cfg: Config) -> dict[str, Splits]:
        name, splits = self._lone(cfg)
        if isinstance(train := splits.get("train"), VQADataset):
            splits["train"] = _answered(train, int(self.run_cfg.seed), FileRules.of(cfg.datasets_cfg[name]))
        self.answer_list = self._answers(splits)
        return {name: splits}

    def _answers(self, splits: Splits) -> list[str]:
        """run.answer_list, that of LAVIS' data set, or the answers of the training split, the most common first."""
        if self.run_cfg.get("answer_list"):
            return _read_answers(str(self.run_cfg.answer_list))
        for dataset in splits.values():
            if getattr(dataset, "answer_list", None):
                return list(dataset.answer_list)
        if "train" not in splits:
            raise ValueError("run.answer_list is not set, and there is no training split to collect the answers from")
        given = Counter(answer for row in splits["train"].rows for answer in row.answers)
        return [answer for answer, _ in sorted(given.items(), key=lambda one: (-one[1], one[0]))]

    def settings(self) -> dict[str, object]:
        return {"answers": digest(self.answer_list), "num_ans_candidates": self.run_cfg.num_ans_candidates}

    def answer(self, model: BaseModel, samples: Batch) -> list[str]:
        return model.predict_answers(dict(samples), self.answer_list, int(self.run_cfg.num_ans_candidates))


def _answered(dataset: VQADataset, seed: int, rules: FileRules = DEFAULTS) -> AnsweredQuestions:
    rows = question_rows(dataset)
    images = ImageFiles(dataset.vis_root, pa.array([row.image for row in rows]), rules=rules)
    return AnsweredQuestions(rows, images, dataset.vis_processor, dataset.text_processor, seed)


def _read_answers(path: str) -> list[str]:
    """A JSON list of answers, or a text file with one a line."""
    file = Path(path).expanduser()
    with reading(file, "list of answers", "Set run.answer_list to a JSON list or a text file."):
        text = file.read_text(encoding="utf-8")
        answers = json.loads(text) if path.endswith(".json") else text.splitlines()
    if not isinstance(answers, list) or not answers or not all(isinstance(answer, str) for answer in answers):
        raise ValueError(f"run.answer_list: {path} is not a list of answers")
    return list(dict.fromkeys(answer for answer in answers if answer.strip()))


@registry.register_task("mafa_albef_nlvr")
class MafaNlvrTask(MafaFinetuneTask):
    """LAVIS' NLVR2; with a model of three classes, on image-text pairs, ALBEF's text assignment before it."""

    measure = "verdict"  # of a single answer

    def build_datasets(self, cfg: Config) -> dict[str, Splits]:
        if int(cfg.model_cfg.get("num_classes", 2)) == 3:
            ((name, splits),) = super().build_datasets(cfg).items()
            return {name: {"train": self._assignment(splits["train"])}}
        name, splits = self._lone(cfg)
        made = int(self.run_cfg.seed), FileRules.of(cfg.datasets_cfg[name])
        lavis = {split: from_lavis(data, *made) for split, data in splits.items() if isinstance(data, NLVRDataset)}
        return {name: {**splits, **lavis}}

    def _assignment(self, pairs: object) -> TextAssignment:
        if not isinstance(pairs, PairDataset):
            raise ValueError(
                "model.num_classes is 3, which means text assignment: use a data set of image-text pairs "
                "(image_text, scenes)"
            )
        return TextAssignment(pairs, int(self.run_cfg.seed))

    def settings(self) -> dict[str, object]:
        return {}

    def items(self, dataset: Statements) -> list[int]:
        return [row.statement_id for row in dataset.rows]

    def answer(self, model: BaseModel, samples: Batch) -> list[str]:
        unknown = torch.zeros(len(samples["text_input"]), dtype=torch.long, device=samples["image0"].device)
        logits = model.predict({**samples, "label": unknown})["predictions"]
        return [TRUTH_WORDS[int(label)] for label in logits.argmax(dim=1)]

    def judge(self, dataset: Statements, answer_of: Mapping[int, str]) -> dict[str, object]:
        """Accuracy in percent, and that of the one answer that holds most often."""
        held = {row.statement_id: row.holds for row in dataset.rows if row.holds is not None}
        if not held:
            return {"all": None, "questions": 0, "missing": {"labels": "the split's labels are held back"}}
        right = np.mean([answer_of[one] == TRUTH_WORDS[int(holds)] for one, holds in held.items()])
        share = np.mean(list(held.values()))
        one = {"answer": TRUTH_WORDS[int(share >= 0.5)], "all": 100 * float(max(share, 1 - share))}
        return {"all": 100 * float(right), "questions": len(held), "majority": one, "missing": {}}

    def table(self, dataset: Statements, answer_of: Mapping[int, str]) -> pd.DataFrame:
        answers = [answer_of[row.statement_id] for row in dataset.rows]
        rows = [
            (
                row.statement_id,
                " | ".join(row.images),
                row.sentence,
                answer,
                [] if row.holds is None else [TRUTH_WORDS[int(row.holds)]],
                None if row.holds is None else float(answer == TRUTH_WORDS[int(row.holds)]),
            )
            for row, answer in zip(dataset.rows, answers, strict=True)
        ]
        return pd.DataFrame(rows, columns=["statement_id", "image", "question", "answer", "ground_truth", "verdict"])

    def files(self, dataset: Statements, answer_of: Mapping[int, str]) -> dict[str, object]:
        return {"leaderboard": [{"identifier": item, "prediction": text} for item, text in answer_of.items()]}
