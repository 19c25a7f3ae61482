"""`mafa_stage2`, `mafa_captioning`, `mafa_vqa`: LAVIS' tasks around a frozen language model.

All train alike: the language model's loss over captions (LAVIS' image_text_pretrain), by the loop of `mafa_pretrain`,
whose steps a resume repeats exactly. They differ in what they say about a test split and how that is judged.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import torch
from lavis.common.registry import registry
from lavis.tasks.base_task import BaseTask
from torch import nn

from lavis_mafa.common.precision import precision
from lavis_mafa.core.miner import MinedPairs
from lavis_mafa.data.questions import QuestionRow
from lavis_mafa.evaluation.caption_metrics import caption_metrics, cider_of_images
from lavis_mafa.evaluation.ground_truth import caption_truth, coco_format, question_rows, read_references
from lavis_mafa.evaluation.vqa_accuracy import LEMMAS_REMEDY, accuracies, hits, lemmatised, majority, verdicts
from lavis_mafa.models.base import MafaOutput
from lavis_mafa.models.blip2.language_model import PRECISIONS, LanguageModelParts, precision_name
from lavis_mafa.tasks.pretrain import MafaPretrainTask

NOTHING_MINED: Any = MinedPairs(None, {}, None, None)  # type: ignore[arg-type]


@registry.register_task("mafa_stage2")
class MafaStage2Task(MafaPretrainTask):
    """Trains; evaluates nothing."""

    measure = "verdict"  # of a single answer
    one_caption_a_record = True  # an epoch of random batches is LAVIS': every caption

    @classmethod
    def setup_task(cls, cfg: Any, **kwargs: Any) -> MafaStage2Task:
        """Before anything is built: model.llm_precision as run.device allows it."""
        model_cls = registry.get_model_class(cfg.model_cfg.arch)
        if not issubclass(model_cls, LanguageModelParts):
            allowed = "mafa_blip2_opt or mafa_blip2_t5, for the task asks a language model"
            raise ValueError(f"model.arch is {cfg.model_cfg.arch}: allowed is {allowed}")
        cfg.model_cfg.llm_precision = _llm_precision(cfg.run_cfg, cfg.model_cfg.get("llm_precision"), model_cls.half)
        return cls(cfg.run_cfg)

    def build_model(self, cfg: Any) -> nn.Module:
        """On a CPU all of a model is made float32; its language model then has the precision that was asked for."""
        model = super().build_model(cfg)
        model.language_model.to(PRECISIONS[cfg.model_cfg.llm_precision])
        return model

    def build_datasets(self, cfg: Any) -> dict[str, Any]:
        """One record table of LAVIS' data sets to train on; what is evaluated stays as they have it."""
        built: dict[str, Any] = BaseTask.build_datasets(self, cfg)
        if self.run_cfg.evaluate:
            return built
        found = self.gathered(cfg, built)
        return {name: {**built.get(name, {}), **splits} for name, splits in found.items()}

    def build_scorer(self, student: Any, train_set: Any, device: torch.device) -> None:
        return None

    def _forward(self, model: nn.Module, samples: Any, cuda_enabled: bool) -> MafaOutput:
        dtype = precision(self.run_cfg)
        with torch.autocast("cuda" if cuda_enabled else "cpu", dtype=dtype, enabled=dtype is not None):
            loss = model(samples)["loss"]
        return MafaOutput(loss, {"loss_lm": loss}, NOTHING_MINED, NOTHING_MINED.settled, None, None)  # type: ignore[arg-type]

    def settings(self) -> dict[str, Any]:
        """What a prediction depends on beside weights and data."""
        names = ("prompt", "num_beams", "max_len", "min_len", "length_penalty")
        return {name: self.run_cfg.get(name) for name in names}

    def _penalty(self, default: float) -> float:
        given = self.run_cfg.get("length_penalty")
        return default if given is None else float(given)


def _llm_precision(run: Any, asked: str | None, half: torch.dtype) -> str:
    """Gradients pass fp16 only under run.precision fp16, which scales the loss: below its range they would be lost."""
    own = run.get("precision", "fp32")
    if run.device != "cpu" and own != "fp16" and not run.get("evaluate", False):
        if asked == "fp16":
            raise ValueError(
                f"model.llm_precision is fp16, but run.precision {own}, which scales no loss: "
                "set model.llm_precision to bf16, or both to fp16"
            )
        if asked is None and half == torch.float16:
            asked = own
    return precision_name(asked, half, str(run.device))


@registry.register_task("mafa_captioning")
class MafaCaptionTask(MafaStage2Task):
    """LAVIS' captioning; run.prompt, where given, takes the place of the model's."""

    measure = "CIDEr"

    @classmethod
    def setup_task(cls, cfg: Any, **kwargs: Any) -> MafaStage2Task:
        cfg.run_cfg.prompt = cfg.run_cfg.get("prompt") or cfg.model_cfg.get("prompt") or ""
        return super().setup_task(cfg)

    @cached_property
    def references(self) -> dict[int, list[str]]:
        """Of run.references, read once and by whoever judges; empty without it."""
        given = self.run_cfg.get("references")
        return read_references(given) if given else {}

    def items(self, dataset: Any) -> list[int]:
        """What names sample i in the predictions."""
        return caption_truth(dataset).image_ids

    def say(self, model: Any, samples: Mapping[str, Any]) -> list[str]:
        prompt = str(self.run_cfg.prompt)
        return model.generate(
            {**samples, "prompt": prompt},
            num_beams=int(self.run_cfg.num_beams),
            max_length=int(self.run_cfg.max_len),
            min_length=int(self.run_cfg.min_len) + model.tokens_before(prompt),
            length_penalty=self._penalty(1.0),
        )

    def say_without_image(self, model: Any, dataset: Any, numbers: Sequence[int]) -> list[str]:
        beams, longest = int(self.run_cfg.num_beams), int(self.run_cfg.max_len)
        options = {"num_beams": beams, "max_len": longest, "length_penalty": self._penalty(1.0)}
        options["min_len"] = int(self.run_cfg.min_len)
        return model.answer_without_image([str(self.run_cfg.prompt)] * len(numbers), **options)

    def judge(self, dataset: Any, said: Mapping[int, str]) -> dict[str, Any]:
        """Caption metrics, None where the references are held back; `all` is CIDEr in the papers' scale."""
        truth = caption_truth(dataset, self.references)
        if not truth.references:
            return {"all": None, "missing": {"references": "run.references names no COCO file with the captions"}}
        metrics = caption_metrics(said, truth.references)
        return {"all": 100 * metrics["CIDEr"], "images": len(said), **metrics}

    def table(self, dataset: Any, said: Mapping[int, str]) -> pd.DataFrame:
        """`question`: the prompt; `verdict`: CIDEr of the image, None where the references are held back."""
        truth = caption_truth(dataset, self.references)
        found = cider_of_images(said, truth.references) if truth.references else {}
        rows = {
            "image_id": truth.image_ids,
            "image": truth.images,
            "question": self.run_cfg.prompt,
            "ground_truth": [truth.references.get(image, []) for image in truth.image_ids],
            "answer": [said[image] for image in truth.image_ids],
            "verdict": [found.get(image) for image in truth.image_ids],
        }
        return pd.DataFrame(rows)

    def files(self, dataset: Any, said: Mapping[int, str]) -> dict[str, Any]:
        """JSON files for a leaderboard, and the ground truth in COCO's format."""
        truth = caption_truth(dataset, self.references)
        board = [{"image_id": image, "caption": said[image]} for image in truth.image_ids]
        return {"leaderboard": board, **({"references": coco_format(truth)} if truth.references else {})}


@registry.register_task("mafa_vqa")
class MafaVqaTask(MafaStage2Task):
    """LAVIS' vqa and gqa with `predict_answers` (inference_method generate)."""

    def items(self, dataset: Any) -> list[int]:
        return [row.question_id for row in question_rows(dataset)]

    def say(self, model: Any, samples: Mapping[str, Any]) -> list[str]:
        # transformers counts the token that stands before an answer, too: T5's start, the question's last of OPT
        return model.predict_answers(samples, min_len=int(self.run_cfg.min_len) + 1, **self._asking())

    def say_without_image(self, model: Any, dataset: Any, numbers: Sequence[int]) -> list[str]:
        rows = question_rows(dataset)
        questions = [dataset.text_processor(rows[i].question) for i in numbers]
        return model.answer_without_image(questions, min_len=int(self.run_cfg.min_len), **self._asking())

    def _asking(self) -> dict[str, Any]:
        return {
            "prompt": self.run_cfg.prompt,
            "num_beams": int(self.run_cfg.num_beams),
            "max_len": int(self.run_cfg.max_len),
            "length_penalty": self._penalty(-1.0),
        }

    @property
    def _by_lemmas(self) -> bool:
        return bool(self.run_cfg.get("lemmatise", False))

    def verdicts(self, rows: Sequence[QuestionRow], said: Sequence[str]) -> np.ndarray:
        """(N,) in [0, 1], NaN where the ground truth is held back. run.match: `vqa`, or `any`, a hit on any answer."""
        return (hits if self.run_cfg.get("match") == "any" else verdicts)(rows, said)

    def judge(self, dataset: Any, said: Mapping[int, str]) -> dict[str, Any]:
        """Accuracy by types, of the answers as said (`raw`) and lemmatised, and of the one that suits most questions.

        `headline` names which of them stand first (`all`): with run.lemmatise the lemmatised, given spaCy's model.
        """
        rows = question_rows(dataset)
        answers = [said[row.question_id] for row in rows]
        lemmas = lemmatised(answers)
        raw = accuracies(rows, self.verdicts(rows, answers))
        by_lemmas = None if lemmas is None else accuracies(rows, self.verdicts(rows, lemmas))
        headline = "lemmatised" if self._by_lemmas and by_lemmas else "raw"
        found = {**(by_lemmas if headline == "lemmatised" else raw), "raw": raw, "lemmatised": by_lemmas}
        found["headline"] = headline
        found["missing"] = {"lemmatised": LEMMAS_REMEDY} if lemmas is None else {}
        if found["questions"]:
            one = majority(rows)
            found["majority"] = {"answer": one, **accuracies(rows, self.verdicts(rows, [one] * len(rows)))}
        return found

    def table(self, dataset: Any, said: Mapping[int, str]) -> pd.DataFrame:
        rows = question_rows(dataset)
        answers = [said[row.question_id] for row in rows]
        table = pd.DataFrame([vars(row) for row in rows]).rename(columns={"answers": "ground_truth"})
        table["ground_truth"] = table["ground_truth"].map(list)
        lemmas = lemmatised(answers)
        judged = self.verdicts(rows, (self._by_lemmas and lemmas) or answers)
        return table.assign(answer=answers, lemmatised=lemmas, verdict=np.where(np.isnan(judged), None, judged))

    def files(self, dataset: Any, said: Mapping[int, str]) -> dict[str, Any]:
        """VQA's form for a leaderboard, and GQA's."""
        return {
            "leaderboard": [{"question_id": item, "answer": text} for item, text in said.items()],
            "leaderboard_gqa": [{"questionId": str(item), "prediction": text} for item, text in said.items()],
        }
