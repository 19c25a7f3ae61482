"""Questions for LAVIS' registry: `scenes_gqa`, `scenes_okvqa` (embedded) and `image_questions` (any JSON)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
from lavis.common.registry import registry

from lavis_mafa.common.config_file import plain_config
from lavis_mafa.common.files import CONFIGS
from lavis_mafa.data.dataset import OpenImage, VisProcessor
from lavis_mafa.data.downstream import AnsweredQuestions
from lavis_mafa.data.images import ImageFiles
from lavis_mafa.data.questions import QuestionDataset, QuestionRow, read_questions
from lavis_mafa.data.records import TextProcessor
from lavis_mafa.data.rules import FileRules
from lavis_mafa.data.scenes.dataset import open_scene
from lavis_mafa.data.scenes.questions import Question, compositional, knowledge
from lavis_mafa.data.scenes.scene import Scene, scene_number, scene_rng
from lavis_mafa.data.sources import image_folder
from lavis_mafa.datasets.local import LocalBuilder


class QuestionBuilder(LocalBuilder):
    """A builder whose splits are questions."""

    def source(self, options: Any) -> tuple[list[QuestionRow], OpenImage]:
        """Rows of a split, and what opens the image of row i."""
        raise NotImplementedError

    def make(
        self, split: str, options: Any, vis: VisProcessor, text: TextProcessor
    ) -> AnsweredQuestions | QuestionDataset:
        parts = *self.source(options), vis, text
        return AnsweredQuestions(*parts, int(self.config.seed)) if split == "train" else QuestionDataset(*parts)


class ScenesQuestionBuilder(QuestionBuilder):
    """`splits: {test: {n: scenes, seed: …, questions_a_scene: …}}`; the scenes of a seed are those of `scenes`."""

    ask: Callable[[Scene, np.random.Generator], Question]
    stream: int  # of scene_rng, so that the two kinds are drawn apart

    def splits(self) -> Mapping[str, Any]:
        return plain_config(self.config.splits)

    def source(self, options: Any) -> tuple[list[QuestionRow], OpenImage]:
        if set(options) != {"n", "seed", "questions_a_scene"}:
            raise ValueError(f"a split of scenes' questions needs n, seed and questions_a_scene, but has {options}")
        rows = list(self._rows(**options))
        each = int(options["questions_a_scene"])
        return rows, lambda index: open_scene(options["seed"], index // each)

    def _rows(self, n: int, seed: int, questions_a_scene: int) -> Iterator[QuestionRow]:
        for number in range(n):
            scene, rng = scene_number(seed, number), scene_rng(seed, number, self.stream)
            for place in range(questions_a_scene):
                asked = type(self).ask(scene, rng)
                yield QuestionRow(
                    number * questions_a_scene + place,
                    f"scene/{seed}/{number}",
                    asked.text,
                    asked.answers,
                    asked.question_type,
                    asked.answer_type,
                )


@registry.register_builder("scenes_gqa")
class ScenesGqaBuilder(ScenesQuestionBuilder):
    DATASET_CONFIG_DICT = {"default": str(CONFIGS / "datasets" / "scenes_gqa.yaml")}
    ask, stream = staticmethod(compositional), 6


@registry.register_builder("scenes_okvqa")
class ScenesOkvqaBuilder(ScenesQuestionBuilder):
    DATASET_CONFIG_DICT = {"default": str(CONFIGS / "datasets" / "scenes_okvqa.yaml")}
    ask, stream = staticmethod(knowledge), 7


@registry.register_builder("image_questions")
class ImageQuestionsBuilder(QuestionBuilder):
    """Any images with questions: ALBEF's VQA JSON, images below a root."""

    DATASET_CONFIG_DICT = {"default": str(CONFIGS / "datasets" / "image_questions.yaml")}

    def splits(self) -> Mapping[str, Any]:
        if not self.config.get("annotations"):
            raise ValueError("datasets.image_questions.annotations is empty; set it, e.g. annotations: {test: my.json}")
        return self.config.annotations

    def source(self, options: Any) -> tuple[list[QuestionRow], OpenImage]:
        root = image_folder(self.config, "image_questions")
        rules = FileRules.of(self.config)
        rows = read_questions(options, rules.max_characters)[: self.config.get("max_rows")]
        images = pa.array([row.image for row in rows], pa.string())
        return rows, ImageFiles(root, images, str(options), rules)
