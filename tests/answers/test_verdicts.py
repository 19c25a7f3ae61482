"""Accuracies by hand."""

from __future__ import annotations

import math

import pytest

from lavis_mafa.answers.verdicts import accuracies, hits, lemmatised, majority, verdicts
from lavis_mafa.data.questions import QuestionRow

TEN = ("apple",) * 3 + ("pear",) * 2 + ("plum",) * 5


def row(number: int, *answers: str, types: tuple[str, str] = ("query", "other")) -> QuestionRow:
    return QuestionRow(number, "image", "what?", answers, *types)


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("plum", 1.0),  # five say so: whoever is left out, four others do
        ("apple", (3 * 2 / 3 + 7 * 1) / 10),  # each of its three sees two others, the seven see three
        ("pear", (2 * 1 / 3 + 8 * 2 / 3) / 10),
        ("The pear.", (2 * 1 / 3 + 8 * 2 / 3) / 10),
        ("fig", 0.0),
    ],
)
def test_vqa_accuracy_is_the_mean_over_nine_of_ten(said: str, expected: float) -> None:
    assert verdicts([row(1, *TEN)], [said])[0] == pytest.approx(expected, abs=1e-6)


def test_one_answer_is_matched_after_the_official_normalisation() -> None:
    rows = [row(1, "yes"), row(2, "2"), row(3, "traffic light"), row(4, "red")]
    assert verdicts(rows, ["Yes.", "two", "a traffic light", "dark red"]).tolist() == [1, 1, 1, 0]


def test_a_hit_on_any_of_several_answers() -> None:
    rows = [row(1, "desk", "tape dispenser"), row(2, "2"), row(3, "desk"), row(4)]
    assert hits(rows, ["Tape dispenser.", "two", "dispenser", "x"])[:3].tolist() == [1, 1, 0]
    assert math.isnan(hits(rows, ["", "", "", "x"])[3])


def test_a_held_back_answer_counts_for_nothing() -> None:
    rows = [row(1, "yes", types=("verify", "yes/no")), row(2), row(3, "red")]
    judged = verdicts(rows, ["yes", "no", "blue"])
    assert math.isnan(judged[1])
    found = accuracies(rows, judged)
    assert found["questions"] == 2 and found["all"] == 50
    assert found["by_answer_type"] == {"other": 0.0, "yes/no": 100.0}
    assert found["by_question_type"] == {"query": 0.0, "verify": 100.0}
    assert accuracies([row(1)], verdicts([row(1)], ["x"])) == {
        "questions": 0,
        "all": None,
        "by_answer_type": {},
        "by_question_type": {},
    }


def test_majority_counts_questions_not_annotators() -> None:
    assert majority([row(1, *TEN), row(2, "yes"), row(3, "yes"), row(4)]) == "yes"


def test_lemmas_need_spacys_model_and_say_so_by_none() -> None:
    found = lemmatised(["two dogs"])
    assert found is None or found == ["two dog"]
