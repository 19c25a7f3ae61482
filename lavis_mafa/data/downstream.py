"""Training data of the downstream tasks: questions with answers, statements about two images, text assignment.

A sample's randomness is f(seed, epoch, row), as in data/dataset.py. Samples hold what LAVIS' models of the task read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypedDict, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from lavis_mafa.common.hashing import digest_of
from lavis_mafa.data.dataset import PairDataset, seeded
from lavis_mafa.data.questions import QuestionRow
from lavis_mafa.data.records import RecordTable

VisProcessor = Callable[[Image.Image], Tensor]
TextProcessor = Callable[[str], str]
RowT = TypeVar("RowT")


class Sample(TypedDict, total=False):
    """What LAVIS' model of the task reads of a row: a question with its answers, or a statement about two images."""

    index: int
    image: Tensor
    image0: Tensor
    image1: Tensor
    text_input: str
    answers: list[str]
    weights: list[float]
    label: int


class Questions(TypedDict):
    """A batch as LAVIS' albef_vqa reads it: all answers in one list, `n_answers` of them to a question."""

    image: Tensor
    text_input: list[str]
    answer: list[str]
    weight: Tensor
    n_answers: Tensor
    index: Tensor


@dataclass(frozen=True)
class StatementRow:
    """A sentence about two images (paths or keys), and whether it holds of them (NLVR2); None where held back."""

    statement_id: int
    images: tuple[str, str]
    sentence: str
    holds: bool | None


class RowTable:
    """What a run needs from its training data: the number and content of its rows. Each row has an image of its own."""

    def __init__(self, rows: Sequence[object]) -> None:
        self.n_records = len(rows)
        self.image_id: NDArray[np.int64] = np.arange(len(rows))
        self.fingerprint = digest_of(rows)


class TrainingRows(Dataset[Sample], Generic[RowT]):
    """Rows of a task, drawn from by (seed, epoch, row)."""

    bad_records: tuple[int, ...] = ()  # an image that cannot be read is an error here

    def __init__(self, rows: Sequence[RowT], seed: int) -> None:
        if not rows:
            raise ValueError("the training split has no rows with an answer or a label")
        self.rows, self.seed, self.epoch = list(rows), seed, 0
        self.table: RowTable | RecordTable = RowTable(rows)
        self.truth = None

    def __len__(self) -> int:
        return len(self.rows)

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __getitem__(self, index: int) -> Sample:
        with seeded(self.seed, self.epoch, int(index)):
            return {**self.sample(int(index)), "index": int(index)}

    def sample(self, index: int) -> Sample:
        raise NotImplementedError


class AnsweredQuestions(TrainingRows[QuestionRow]):
    """Questions with their distinct answers, each weighed by the share of people who gave it (ALBEF, LAVIS)."""

    def __init__(
        self,
        rows: Sequence[QuestionRow],
        open_image: Callable[[int], Image.Image],
        vis_processor: VisProcessor,
        text_processor: TextProcessor,
        seed: int,
    ) -> None:
        self.places = [place for place, row in enumerate(rows) if row.answers]
        super().__init__([rows[place] for place in self.places], seed)
        self.open_image, self.vis_processor, self.text_processor = open_image, vis_processor, text_processor

    def sample(self, index: int) -> Sample:
        row = self.rows[index]
        given = Counter(row.answers)
        return {
            "image": self.vis_processor(self.open_image(self.places[index])),
            "text_input": self.text_processor(row.question),
            "answers": list(given),
            "weights": [count / len(row.answers) for count in given.values()],
        }

    def collater(self, samples: Sequence[Sample]) -> Questions:
        return {
            "image": torch.stack([sample["image"] for sample in samples]),
            "text_input": [sample["text_input"] for sample in samples],
            "answer": [answer for sample in samples for answer in sample["answers"]],
            "weight": torch.tensor([weight for sample in samples for weight in sample["weights"]]),
            "n_answers": torch.tensor([len(sample["answers"]) for sample in samples]),
            "index": torch.tensor([sample["index"] for sample in samples]),
        }


class Statements(TrainingRows[StatementRow]):
    """Sentences about two images. `flip`: what changes a training sample's sides; None: nothing does.

    `open_side(row, side)` gives the image of a row at side 0 or 1.
    """

    def __init__(
        self,
        rows: Sequence[StatementRow],
        open_side: Callable[[int, int], Image.Image],
        vis_processor: VisProcessor,
        text_processor: TextProcessor,
        seed: int,
        flip: Callable[[Sample], Sample] | None = None,
    ) -> None:
        super().__init__(rows, seed)
        self.open_side, self.vis_processor, self.text_processor = open_side, vis_processor, text_processor
        self.flip = flip

    def open_image(self, index: int) -> Image.Image:
        """Both images of a row, side by side."""
        sides = [self.open_side(index, side) for side in (0, 1)]
        both = Image.new("RGB", (sum(side.width for side in sides), max(side.height for side in sides)))
        both.paste(sides[0], (0, 0))
        both.paste(sides[1], (sides[0].width, 0))
        return both

    def sample(self, index: int) -> Sample:
        row = self.rows[index]
        sample: Sample = {
            "image0": self.vis_processor(self.open_side(index, 0)),
            "image1": self.vis_processor(self.open_side(index, 1)),
            "text_input": self.text_processor(row.sentence),
            "label": int(bool(row.holds)),
        }
        return self.flip(sample) if self.flip is not None else sample


class TextAssignment(TrainingRows[int]):
    """ALBEF's pre-training step before NLVR2 (arXiv 2107.07651, section 4): of which of two images is the text?

    Labels, in equal shares: 0 the first, 1 the second, 2 neither. Made of image-text pairs, drawn anew each epoch.
    """

    def __init__(self, pairs: PairDataset, seed: int) -> None:
        if len(pairs) < 3:
            raise ValueError("text assignment needs at least three records: two images, and a text of neither")
        super().__init__(range(len(pairs)), seed)
        self.pairs, self.table = pairs, pairs.table

    def set_epoch(self, epoch: int) -> None:
        super().set_epoch(epoch)
        self.pairs.set_epoch(epoch)

    def sample(self, index: int) -> Sample:
        rng = np.random.default_rng((self.seed, self.epoch, index))
        other, third = (index + rng.choice(len(self) - 1, 2, replace=False) + 1) % len(self)
        label = int(rng.integers(3))
        own, beside = self.pairs[index], self.pairs[int(other)]
        images = (beside, own) if label == 1 else (own, beside)
        described = self.pairs[int(third)] if label == 2 else own
        return {
            "image0": images[0]["image"],
            "image1": images[1]["image"],
            "text_input": described["text_input"],
            "label": label,
        }
