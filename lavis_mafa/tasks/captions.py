"""`mafa_captioning`: LAVIS' captioning by a model of stage 2, judged by caption metrics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property

import pandas as pd
from lavis.common.config import Config
from lavis.common.registry import registry
from lavis.datasets.datasets.base_dataset import BaseDataset
from lavis.models.base_model import BaseModel

from lavis_mafa.common.tree import number_at
from lavis_mafa.core.batch import Batch
from lavis_mafa.data.dataset import RetrievalDataset
from lavis_mafa.evaluation.caption_metrics import caption_metrics, cider_of_images
from lavis_mafa.evaluation.ground_truth import caption_truth, coco_format, read_references
from lavis_mafa.tasks.stage2 import MafaStage2Task


@registry.register_task("mafa_captioning")
class MafaCaptionTask(MafaStage2Task):
    """LAVIS' captioning; run.prompt, where given, takes the place of the model's."""

    measure = "CIDEr"

    @classmethod
    def setup_task(cls, cfg: Config, **kwargs: object) -> MafaStage2Task:
        cfg.run_cfg.prompt = cfg.run_cfg.get("prompt") or cfg.model_cfg.get("prompt") or ""
        return super().setup_task(cfg)

    @cached_property
    def references(self) -> dict[int, list[str]]:
        """Of run.references, read once and by whoever judges; empty without it."""
        given = self.run_cfg.get("references")
        return read_references(given) if given else {}

    def items(self, dataset: RetrievalDataset | BaseDataset) -> list[int]:
        """What names sample i in the predictions."""
        return caption_truth(dataset).image_ids

    def answer(self, model: BaseModel, samples: Batch) -> list[str]:
        prompt = str(self.run_cfg.prompt)
        return model.generate(
            {**samples, "prompt": prompt},
            num_beams=int(self.run_cfg.num_beams),
            max_length=int(self.run_cfg.max_len),
            min_length=int(self.run_cfg.min_len),
            length_penalty=self._penalty(1.0),
        )

    def answer_without_image(
        self, model: BaseModel, dataset: RetrievalDataset | BaseDataset, numbers: Sequence[int]
    ) -> list[str]:
        beams, longest = int(self.run_cfg.num_beams), int(self.run_cfg.max_len)
        options = {"num_beams": beams, "max_len": longest, "length_penalty": self._penalty(1.0)}
        options["min_len"] = int(self.run_cfg.min_len)
        return model.answer_without_image([str(self.run_cfg.prompt)] * len(numbers), **options)

    def judge(self, dataset: RetrievalDataset | BaseDataset, answer_of: Mapping[int, str]) -> dict[str, object]:
        """Caption metrics, None where the references are held back; `all` is CIDEr in the papers' scale."""
        truth = caption_truth(dataset, self.references)
        if not truth.references:
            return {"all": None, "missing": {"references": "run.references names no COCO file with the captions"}}
        metrics = caption_metrics(answer_of, truth.references)
        cider = number_at(metrics, "CIDEr")
        return {"all": None if cider is None else 100 * cider, "images": len(answer_of), **metrics}

    def table(self, dataset: RetrievalDataset | BaseDataset, answer_of: Mapping[int, str]) -> pd.DataFrame:
        """`question`: the prompt; `verdict`: CIDEr of the image, None where the references are held back."""
        truth = caption_truth(dataset, self.references)
        found = cider_of_images(answer_of, truth.references) if truth.references else {}
        rows = {
            "image_id": truth.image_ids,
            "image": truth.images,
            "question": self.run_cfg.prompt,
            "ground_truth": [truth.references.get(image, []) for image in truth.image_ids],
            "answer": [answer_of[image] for image in truth.image_ids],
            "verdict": [found.get(image) for image in truth.image_ids],
        }
        return pd.DataFrame(rows)

    def files(self, dataset: RetrievalDataset | BaseDataset, answer_of: Mapping[int, str]) -> dict[str, object]:
        """JSON files for a leaderboard, and the ground truth in COCO's format."""
        truth = caption_truth(dataset, self.references)
        board = [{"image_id": image, "caption": answer_of[image]} for image in truth.image_ids]
        return {"leaderboard": board, **({"references": coco_format(truth)} if truth.references else {})}
