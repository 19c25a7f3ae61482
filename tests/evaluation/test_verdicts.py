"""Accuracies by hand."""

from __future__ import annotations

import math
import sys
from types import SimpleNamespace

import pytest
from omegaconf import OmegaConf
from PIL import Image

from lavis_mafa.data.questions import QuestionDataset, QuestionRow
from lavis_mafa.evaluation.vqa_accuracy import accuracies, hits, lemmatised, majority, verdicts
from lavis_mafa.runners.answer_report import answers_table
from lavis_mafa.tasks.vqa import MafaVqaTask

TEN = ("apple",) * 3 + ("pear",) * 2 + ("plum",) * 5


def row(number: int, *answers: str, types: tuple[str, str] = ("query", "other")) -> QuestionRow:
    return QuestionRow(number, "image", "what?", answers, *types)


@pytest.mark.parametrize(
    ("predicted", "expected"),
    [
        ("plum", 1.0),  # five say so: whoever is left out, four others do
        ("apple", (3 * 2 / 3 + 7 * 1) / 10),  # each of its three sees two others, the seven see three
        ("pear", (2 * 1 / 3 + 8 * 2 / 3) / 10),
        ("The pear.", (2 * 1 / 3 + 8 * 2 / 3) / 10),
        ("fig", 0.0),
    ],
)
def test_vqa_accuracy_is_the_mean_over_nine_of_ten(predicted: str, expected: float) -> None:
    assert verdicts([row(1, *TEN)], [predicted])[0] == pytest.approx(expected, abs=1e-6)


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


class Language:
    """As a spaCy model: nouns and verbs lose an s, other words do not. `asked`: what it was put to."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def __call__(self, text: str) -> list[SimpleNamespace]:
        self.asked.append(text)
        return [
            SimpleNamespace(text=word, pos_="ADJ" if word == "gross" else "NOUN", lemma_=word.removesuffix("s"))
            for word in text.split()
        ]


@pytest.fixture
def language(monkeypatch: pytest.MonkeyPatch) -> Language:
    found = Language()
    monkeypatch.setitem(sys.modules, "spacy", SimpleNamespace(load=lambda name: {"en_core_web_sm": found}[name]))
    return found


def _missing(name: str) -> Language:
    raise OSError(f"[E050] Can't find model '{name}'")


def task(lemmatise: bool) -> MafaVqaTask:
    return MafaVqaTask(OmegaConf.create({"lemmatise": lemmatise}))


ASKED = QuestionDataset([row(1, "dog"), row(2, "gross")], lambda i: Image.new("RGB", (1, 1)), lambda x: x, str)
ANSWERS = {1: "dogs", 2: "gross"}


def test_nouns_and_verbs_are_lemmas_and_an_answer_is_read_once(language: Language) -> None:
    assert lemmatised(["two dogs", "gross", "two dogs"]) == ["two dog", "gross", "two dog"]
    assert language.asked == ["two dogs", "gross"]


def test_lemmas_stand_first_where_they_are_asked_for(language: Language) -> None:
    for lemmatise, headline, accuracy in ((True, "lemmatised", 100), (False, "raw", 50)):
        found, table = task(lemmatise).judge(ASKED, ANSWERS), task(lemmatise).table(ASKED, ANSWERS)
        assert (found["all"], found["headline"], found["missing"]) == (accuracy, headline, {})
        assert (found["raw"]["all"], found["lemmatised"]["all"]) == (50, 100)
        assert 100 * table["verdict"].astype(float).mean() == accuracy
        assert table["answer"].tolist() == ["dogs", "gross"] and table["lemmatised"].tolist() == ["dog", "gross"]
        printed = answers_table(found, {"paper": 40.7}).splitlines()
        assert printed[1].split()[:3] == ["this", "checkpoint", f"{accuracy}.0"]
        assert printed[2].split()[1] == ("raw" if lemmatise else "lemmatised")


def test_without_spacys_model_the_raw_answers_stand_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "spacy", SimpleNamespace(load=_missing))
    found = task(lemmatise=True).judge(ASKED, ANSWERS)
    assert (found["all"], found["headline"], found["lemmatised"]) == (50, "raw", None)
    assert "python -m spacy download en_core_web_sm" in found["missing"]["lemmatised"]
    assert task(lemmatise=True).table(ASKED, ANSWERS)["verdict"].tolist() == [0, 1]
