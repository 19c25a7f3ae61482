"""Is an answer right? VQA's soft accuracy where ten people answered, an exact match where one answer is known."""

from __future__ import annotations

import contextlib
import io
from collections import Counter
from collections.abc import Sequence
from types import SimpleNamespace

import lavis_mafa.compat  # noqa: F401  before the first `lavis` import

import numpy as np
import pandas as pd
from lavis.common.vqa_tools.vqa_eval import VQAEval
from lavis.models.blip2_models.blip2_t5 import Blip2T5

from lavis_mafa.data.questions import QuestionRow

LEMMAS_REMEDY = "pip install spacy, then python -m spacy download en_core_web_sm"
UNKNOWN = "unknown"


def verdicts(rows: Sequence[QuestionRow], predicted: Sequence[str]) -> np.ndarray:
    """(N,) in [0, 1], NaN where the ground truth is held back.

    Several answers: VQA accuracy by LAVIS' copy of the official script (Antol et al. 2015). One: LAVIS' rule for GQA.
    """
    found = np.full(len(rows), np.nan)
    several = [i for i, row in enumerate(rows) if len(row.answers) > 1]
    if several:
        found[several] = _vqa_accuracy([rows[i] for i in several], [predicted[i] for i in several])
    normal = VQAEval()
    for i, row in enumerate(rows):
        if len(row.answers) == 1:
            found[i] = float(normalised(normal, predicted[i]) == row.answers[0])
    return found


def normalised(tool: VQAEval, answer: str) -> str:
    """Without punctuation and articles, number words as digits, as the official script has it."""
    plain = answer.replace("\n", " ").replace("\t", " ").strip()
    return str(tool.processDigitArticle(tool.processPunctuation(plain)))


def _vqa_accuracy(rows: Sequence[QuestionRow], predicted: Sequence[str]) -> list[float]:
    truth = {
        i: {
            "answers": [{"answer": answer, "answer_id": k} for k, answer in enumerate(row.answers)],
            "question_type": row.question_type or UNKNOWN,
            "answer_type": row.answer_type or UNKNOWN,
        }
        for i, row in enumerate(rows)
    }
    results = {i: {"answer": answer} for i, answer in enumerate(predicted)}
    tool = VQAEval(SimpleNamespace(qa=truth, getQuesIds=lambda: list(truth)), SimpleNamespace(qa=results))
    tool.n = 10  # it rounds a verdict to n digits
    with contextlib.redirect_stdout(io.StringIO()):  # its progress bar
        tool.evaluate()
    return [tool.evalQA[i] / 100 for i in truth]


def hits(rows: Sequence[QuestionRow], predicted: Sequence[str]) -> np.ndarray:
    """(N,) 1 where the answer is one of the row's, words normalised as VQA does, else 0; NaN where none is known."""
    tool = VQAEval()
    right = [
        normalised(tool, one) in {normalised(tool, answer) for answer in row.answers}
        for row, one in zip(rows, predicted, strict=True)
    ]
    return np.where([bool(row.answers) for row in rows], np.array(right, dtype=float), np.nan)


def lemmatised(predicted: Sequence[str]) -> list[str] | None:
    """Nouns and verbs as their lemmas, as LAVIS' blip2_t5 does for OK-VQA; None without spaCy's English model."""
    try:
        import spacy

        language = spacy.load("en_core_web_sm")
    except (ImportError, OSError):
        return None
    different = list(dict.fromkeys(predicted))
    lemmas = dict(zip(different, Blip2T5._lemmatize(SimpleNamespace(lemmatizer=language), different), strict=True))
    return [lemmas[answer] for answer in predicted]


def accuracies(rows: Sequence[QuestionRow], verdict_N: np.ndarray) -> dict[str, object]:
    """In percent: `all`, `by_answer_type`, `by_question_type`, and how many questions have a known answer."""
    known = ~np.isnan(verdict_N)
    table = pd.DataFrame(
        {
            "verdict": 100 * verdict_N[known],
            "answer_type": [row.answer_type or UNKNOWN for row, k in zip(rows, known, strict=True) if k],
            "question_type": [row.question_type or UNKNOWN for row, k in zip(rows, known, strict=True) if k],
        }
    )
    found: dict[str, object] = {"questions": int(known.sum()), "all": table["verdict"].mean() if len(table) else None}
    for name in ("answer_type", "question_type"):
        found[f"by_{name}"] = {str(kind): part.mean() for kind, part in table.groupby(name)["verdict"]}
    return found


def majority(rows: Sequence[QuestionRow]) -> str:
    """The answer that most questions of the split have: the best answer without image or question."""
    return Counter(Counter(row.answers).most_common(1)[0][0] for row in rows if row.answers).most_common(1)[0][0]
