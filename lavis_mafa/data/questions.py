"""Questions about images as rows and as a data set: what a visual question answering split holds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict, cast

from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from lavis_mafa.data.identity import key_string
from lavis_mafa.data.readers import rows_of
from lavis_mafa.data.rules import MAX_CHARACTERS, readable


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


def read_questions(path: str | Path, longest: int = MAX_CHARACTERS) -> list[QuestionRow]:
    """ALBEF's VQA style: JSON or JSON lines of {question_id, image, question, answer, question_type, answer_type}.

    Raises:
        ValueError: a missing or foreign file, VQA's official layout, a row that lacks something, an id twice, a
            question or an answer of more than `longest` characters.
    """
    path = Path(path).expanduser()
    rows: list[QuestionRow] = []
    place_of: dict[int, str] = {}
    for place, row in rows_of(path):
        try:
            rows.append(_row(row, longest))
        except ValueError as error:
            raise ValueError(f"{path}, {place}: {error}") from None
        number = rows[-1].question_id
        if (first := place_of.setdefault(number, place)) != place:
            raise ValueError(f"{path}, {place}: question_id {number} is that of {first}, too: give each its own")
    return rows


def _row(row: object, longest: int) -> QuestionRow:
    if isinstance(row, dict) and isinstance(row.get("questions"), list):
        raise ValueError(
            "this is VQA's official layout, which names no image files: write a list of {question_id, image, question, "
            "answer}, as ALBEF's vqa_train.json is"
        )
    if not isinstance(row, dict) or not {"question_id", "image", "question"} <= set(row):
        raise ValueError(f"a question needs question_id, image and question, but this is {row!r:.80}")
    for name in ("image", "question"):
        if not isinstance(row[name], str) or not row[name].strip():
            raise ValueError(f"{name!r} must be a non-empty text, not {row[name]!r:.80}")
        readable(row[name], longest)
    return QuestionRow(
        _number(row["question_id"]),
        row["image"],
        row["question"],
        tuple(readable(answer, longest) for answer in answers_of(row.get("answer"))),
        row.get("question_type"),
        row.get("answer_type"),
    )


def _number(value: object) -> int:
    """question_id: a whole number, also as text (7, "7", 7.0)."""
    try:
        return int(key_string(cast("int", value)))
    except ValueError:
        raise ValueError(f"'question_id' must be a whole number, not {value!r:.80}: number the questions") from None


def answers_of(answer: object) -> tuple[str, ...]:
    """A string or a number, a list of these, or VQA's list of {answer: …}; none of null and of an empty list or string.

    Raises:
        ValueError: anything else.
    """
    if answer is None or answer in ("", []):
        return ()
    found = answer if isinstance(answer, (list, tuple)) else [answer]
    return tuple(_answer(one.get("answer") if isinstance(one, dict) else one) for one in found)


def _answer(one: object) -> str:
    if isinstance(one, bool) or not isinstance(one, (str, int, float)):
        raise ValueError(f"an answer must be a text or a number, not {one!r:.80}")
    return one if isinstance(one, str) else key_string(one) if float(one).is_integer() else str(one)
