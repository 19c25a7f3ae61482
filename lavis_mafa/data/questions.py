"""Questions about images as rows and as a data set: what a visual question answering split holds."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from lavis_mafa.common.artifacts import reading
from lavis_mafa.data.annotations import encodable


@dataclass(frozen=True)
class QuestionRow:
    """`image`: path or key; `answers`: none where they are held back, one, or those of ten people."""

    question_id: int
    image: str
    question: str
    answers: tuple[str, ...] = ()
    question_type: str | None = None
    answer_type: str | None = None


class QuestionSample(TypedDict):
    image: Tensor
    text_input: str
    question_id: int


class QuestionDataset(Dataset[QuestionSample]):
    """`rows` and, for sample i, the image that `open_image(i)` gives. Samples: image, text_input, question_id."""

    def __init__(
        self,
        rows: Sequence[QuestionRow],
        open_image: Callable[[int], Image.Image],
        vis_processor: Callable[[Image.Image], Tensor],
        text_processor: Callable[[str], str],
    ) -> None:
        self.rows, self.open_image = list(rows), open_image
        self.vis_processor, self.text_processor = vis_processor, text_processor

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> QuestionSample:
        row = self.rows[index]
        return {
            "image": self.vis_processor(self.open_image(index)),
            "text_input": self.text_processor(row.question),
            "question_id": row.question_id,
        }


def read_questions(path: str | Path) -> list[QuestionRow]:
    """ALBEF's VQA style: a JSON list of {question_id, image, question, answer, question_type, answer_type}.

    Raises:
        ValueError: a missing or foreign file, or a row without its keys, by its number.
    """
    path = Path(path).expanduser()
    with reading(path, "JSON file of questions"):
        rows = json.loads(path.read_text(encoding="utf-8"))
    return [_row(row, f"{path}, row {number}") for number, row in enumerate(rows)]


def _row(row: object, where: str) -> QuestionRow:
    if not isinstance(row, dict) or not {"question_id", "image", "question"} <= set(row):
        raise ValueError(f"{where}: a question needs question_id, image and question, but this is {str(row)[:80]}")
    answers = answers_of(row.get("answer"))
    try:
        for text in (str(row["image"]), str(row["question"]), *answers):
            encodable(text)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    return QuestionRow(
        int(row["question_id"]),
        str(row["image"]),
        str(row["question"]),
        answers,
        row.get("question_type"),
        row.get("answer_type"),
    )


def answers_of(answer: str | Sequence[object] | None) -> tuple[str, ...]:
    """A string, a list of strings, or VQA's list of {answer: …}."""
    if not answer:
        return ()
    found = [answer] if isinstance(answer, str) else answer
    return tuple(str(one["answer"] if isinstance(one, dict) else one) for one in found)
