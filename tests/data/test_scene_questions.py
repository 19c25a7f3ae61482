"""Questions about scenes against the captions' truth function, which knows nothing of how they are made."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from lavis_mafa.data.scenes import questions
from lavis_mafa.data.scenes.questions import (
    ANSWERS,
    COLOURS,
    CORNERS,
    NAMES,
    OF_COLOUR,
    OF_SHAPE,
    Question,
    compositional,
    knowledge,
    refer,
    value,
)
from lavis_mafa.data.scenes.scene import SHAPES, Scene, scene_number, scene_rng
from lavis_mafa.data.scenes.statements import statement_about
from lavis_mafa.data.scenes.truth import holds


def asked(ask: Callable[..., Question], count: int = 400, seed: int = 7) -> list[tuple[Scene, Question]]:
    scenes = [scene_number(seed, number) for number in range(count)]
    return [(scene, ask(scene, scene_rng(seed, number, 6))) for number, scene in enumerate(scenes)]


def test_yes_and_no_are_the_truth_of_the_caption() -> None:
    checked = Counter()
    for scene, question in asked(compositional, 1500):
        asked_for = question.text.rstrip("?")
        answer = question.answers[0]
        if found := re.fullmatch(r"is there (an? [a-z ]+?) or (an? [a-z ]+)", asked_for):
            expected = any(holds(scene, mention) for mention in found.groups())
        elif found := re.fullmatch(r"are there both (an? [a-z ]+?) and (an? [a-z ]+)", asked_for):
            expected = all(holds(scene, mention) for mention in found.groups())
        elif found := re.fullmatch(r"is there (an? [a-z ]+)", asked_for):
            expected = holds(scene, found[1])
        elif found := re.fullmatch(r"is the (\w+ \w+) (left of|right of|above|below) the (\w+ \w+)", asked_for):
            expected = holds(scene, f"{_a(found[1])} {found[2]} {_a(found[3])}")
        else:
            continue
        assert answer == ("yes" if expected else "no"), question
        checked[question.question_type, answer] += 1
    assert {kind for kind, _ in checked} == {"verify", "logical"}
    assert min(checked.values()) > 20  # both answers, of both kinds


def _a(name: str) -> str:
    return ("an " if name[0] in "aeiou" else "a ") + name


def test_a_phrase_fits_one_object_and_hides_what_is_asked() -> None:
    rng, found = np.random.default_rng(0), 0
    for number in range(300):
        scene = scene_number(9, number)
        for thing in scene.objects:
            for hidden in ("colour", "shape", "size", ""):
                name = refer(scene, thing, rng, hidden)
                if name is None or " of the " in name or "above the" in name or "below the" in name:
                    continue
                fitting = [one for one in scene.objects if holds(Scene((one,), 0, 0), _a(name[4:]))]
                assert fitting == [thing], (name, scene)
                assert not hidden or value(thing, hidden) not in name.split()
                found += 1
    assert found > 500


def test_what_is_asked_of_an_attribute_is_one_of_its_names() -> None:
    for _, question in asked(compositional):
        for start, field in (("what color", "colour"), ("what shape", "shape"), ("what size", "size")):
            if question.text.startswith(start):
                assert question.answers[0] in NAMES[field]


def test_counts_are_those_of_the_scene() -> None:
    counted = 0
    for scene, question in asked(compositional, 1500):
        if found := re.fullmatch(r"how many (?:(\w+) )?objects are there\?", question.text):
            name = found[1]
            expected = sum(name is None or name in (value(one, "colour"), value(one, "size")) for one in scene.objects)
            assert question.answers == (str(expected),)
            counted += 1
    assert counted > 50


def test_no_answer_is_a_safe_guess() -> None:
    asked_for = Counter(question.answers[0] for _, question in asked(compositional, 1500))
    assert asked_for.most_common(1)[0][1] / 1500 < 0.35


def test_knowledge_has_ten_answers_of_the_right_kind() -> None:
    known = {
        **{name: set(s) for name, s in OF_COLOUR.items()},
        **{n: set(s) for n, s in OF_SHAPE.items()},
    }
    assert set(OF_COLOUR) == set(COLOURS) and set(OF_SHAPE) == set(SHAPES)
    kinds = Counter()
    for scene, question in asked(knowledge):
        assert len(question.answers) == ANSWERS
        kinds[question.question_type] += 1
        if question.question_type == "corners":
            assert question.answers[0] in {CORNERS.get(SHAPES[one.shape]) for one in scene.objects}
        else:
            field = "colour" if question.question_type == "color" else "shape"
            assert any(set(question.answers) <= known[value(one, field)] for one in scene.objects)
    assert set(kinds) == {"color", "form", "corners"}


@pytest.mark.parametrize("ask", [compositional, knowledge])
def test_the_same_seed_asks_the_same(ask: Callable[..., Question]) -> None:
    assert asked(ask, 40) == asked(ask, 40)
    assert asked(ask, 40) != asked(ask, 40, seed=8)


def test_no_word_of_questions_answers_and_statements_is_unknown() -> None:
    """`yes` and `no`, both unknown, would be the same answer to a model that writes answers."""
    folder = Path(questions.__file__).parent
    known = (folder / "vocab_questions.txt").read_text().splitlines()
    captions = (folder / "vocab.txt").read_text().splitlines()
    assert known[: len(captions)] == captions and len(set(known)) == len(known)
    scenes = [scene_number(7, number) for number in range(1500)]
    asked_for = [" ".join([q.text, *q.answers]) for ask in (compositional, knowledge) for _, q in asked(ask, 1500)]
    asked_for += [statement_about(a, b, scene_rng(7, n, 7))[0] for n, (a, b) in enumerate(pairwise(scenes))]
    words = {word for text in asked_for for word in re.findall(r"[a-z0-9]+|[?,]", text.lower())}
    assert words <= set(known)
