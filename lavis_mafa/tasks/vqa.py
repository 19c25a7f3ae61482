"""`mafa_vqa`: LAVIS' vqa and gqa by a model of stage 2, and how any answer to a question is judged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from lavis.common.registry import registry
from lavis.datasets.datasets.base_dataset import BaseDataset
from lavis.models.base_model import BaseModel
from omegaconf import DictConfig

from lavis_mafa.core.batch import Batch
from lavis_mafa.data.questions import QuestionDataset, QuestionRow
from lavis_mafa.evaluation.ground_truth import question_rows
from lavis_mafa.evaluation.vqa_accuracy import LEMMAS_REMEDY, accuracies, hits, lemmatised, majority, verdicts
from lavis_mafa.tasks.stage2 import MafaStage2Task


class VqaAnswers:
    """Answers to questions, judged: a part of every VQA task, however its model answers."""

    run_cfg: DictConfig
    measure = "verdict"  # of a single answer

    def items(self, dataset: QuestionDataset | BaseDataset) -> list[int]:
        return [row.question_id for row in question_rows(dataset)]

    @property
    def _by_lemmas(self) -> bool:
        return bool(self.run_cfg.get("lemmatise", False))

    def verdicts(self, rows: Sequence[QuestionRow], answers: Sequence[str]) -> np.ndarray:
        """(N,) in [0, 1], NaN where the ground truth is held back. run.match: `vqa`, or `any`, a hit on any answer."""
        return (hits if self.run_cfg.get("match") == "any" else verdicts)(rows, answers)

    def judge(self, dataset: QuestionDataset | BaseDataset, answer_of: Mapping[int, str]) -> dict[str, object]:
        """Accuracy by types, of the answers as they are (`raw`) and lemmatised, and of the most fitting constant.

        `headline` names which of them stand first (`all`): with run.lemmatise the lemmatised, given spaCy's model.
        """
        rows = question_rows(dataset)
        answers = [answer_of[row.question_id] for row in rows]
        lemmas = lemmatised(answers)
        raw = accuracies(rows, self.verdicts(rows, answers))
        by_lemmas = None if lemmas is None else accuracies(rows, self.verdicts(rows, lemmas))
        headline = "lemmatised" if self._by_lemmas and by_lemmas else "raw"
        first = raw if by_lemmas is None or headline == "raw" else by_lemmas
        found: dict[str, object] = {**first, "raw": raw, "lemmatised": by_lemmas}
        found["headline"] = headline
        found["missing"] = {"lemmatised": LEMMAS_REMEDY} if lemmas is None else {}
        if found["questions"]:
            one = majority(rows)
            found["majority"] = {"answer": one, **accuracies(rows, self.verdicts(rows, [one] * len(rows)))}
        return found

    def table(self, dataset: QuestionDataset | BaseDataset, answer_of: Mapping[int, str]) -> pd.DataFrame:
        rows = question_rows(dataset)
        answers = [answer_of[row.question_id] for row in rows]
        table = pd.DataFrame([vars(row) for row in rows]).rename(columns={"answers": "ground_truth"})
        table["ground_truth"] = table["ground_truth"].map(list)
        lemmas = lemmatised(answers)
        judged = self.verdicts(rows, (self._by_lemmas and lemmas) or answers)
        verdict = np.array([None if np.isnan(one) else one for one in judged.tolist()], dtype=object)
        return table.assign(answer=answers, lemmatised=lemmas, verdict=verdict)

    def files(self, dataset: QuestionDataset | BaseDataset, answer_of: Mapping[int, str]) -> dict[str, object]:
        """VQA's form for a leaderboard, and GQA's."""
        return {
            "leaderboard": [{"question_id": item, "answer": text} for item, text in answer_of.items()],
            "leaderboard_gqa": [{"questionId": str(item), "prediction": text} for item, text in answer_of.items()],
        }


@registry.register_task("mafa_vqa")
class MafaVqaTask(VqaAnswers, MafaStage2Task):
    """LAVIS' vqa and gqa with `predict_answers` (inference_method generate)."""

    def answer(self, model: BaseModel, samples: Batch) -> list[str]:
        return model.predict_answers(samples, min_len=int(self.run_cfg.min_len), **self._asking())

    def answer_without_image(
        self, model: BaseModel, dataset: QuestionDataset | BaseDataset, numbers: Sequence[int]
    ) -> list[str]:
        rows = question_rows(dataset)
        questions = [dataset.text_processor(rows[i].question) for i in numbers]
        return model.answer_without_image(questions, min_len=int(self.run_cfg.min_len), **self._asking())

    def _asking(self) -> dict[str, object]:
        return {
            "prompt": self.run_cfg.prompt,
            "num_beams": int(self.run_cfg.num_beams),
            "max_len": int(self.run_cfg.max_len),
            "length_penalty": self._penalty(-1.0),
        }
