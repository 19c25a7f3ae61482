"""Changed captions: they say something else, in the grammar, and it is false of nearly every scene."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lavis_mafa.data.scenes import changes
from lavis_mafa.data.scenes.captions import DETAILS, statement_of
from lavis_mafa.data.scenes.changes import changed
from lavis_mafa.data.scenes.grammar import Mention, Statement, parse, say
from lavis_mafa.data.scenes.scene import scene_number
from lavis_mafa.data.scenes.truth import holds

RED, BLUE, CIRCLE, SQUARE = 0, 5, 0, 1


def statements_of(number: int) -> list[Statement]:
    """Three statements about a scene, as its captions make them."""
    rng = np.random.default_rng((3, number))
    return [statement_of(scene_number(7, number), rng, DETAILS[rng.integers(len(DETAILS))]) for _ in range(3)]


@settings(deadline=None, max_examples=200)
@given(st.integers(0, 10**6), st.integers(0, 10**6))
def test_a_changed_caption_is_of_the_grammar_and_no_sibling_tells_it(number: int, seed: int) -> None:
    statements = statements_of(number)
    found = changed(statements[0], statements, np.random.default_rng(seed))
    assert changes._meaning(found) != changes._meaning(statements[0])
    assert found == changed(statements[0], statements, np.random.default_rng(seed))
    read = parse(say(found, np.random.default_rng(seed)))
    assert changes._meaning(read) == changes._meaning(found)


def test_few_changed_captions_are_true() -> None:
    """Nothing looks at the scene, so some are; with a label in fifty wrong Con-D could still be sure."""
    rng, true = np.random.default_rng(0), []
    for number in range(400):
        statements = statements_of(number)
        true.append(holds(scene_number(7, number), say(changed(statements[0], statements, rng), rng)))
    assert np.mean(true) < 0.02


def test_what_a_sibling_tells_is_no_change() -> None:
    """Of a circle and a blue square: `a square` is true, so `a circle` becomes anything but that."""
    circle = Statement((Mention(CIRCLE),))
    siblings = [circle, Statement((Mention(SQUARE, BLUE),))]
    found = {changed(circle, siblings, np.random.default_rng(seed)).mentions[0].shape for seed in range(100)}
    assert CIRCLE not in found and SQUARE not in found and len(found) > 2


@pytest.mark.parametrize("seed", range(20))
def test_two_objects_that_differ_in_colour_alone_are_not_exchanged(seed: int) -> None:
    """`a red circle and a blue circle` says the same the other way round."""
    pair = Statement((Mention(CIRCLE, RED), Mention(CIRCLE, BLUE)))
    found = changed(pair, [pair], np.random.default_rng(seed))
    assert sorted(found.mentions, key=repr) != sorted(pair.mentions, key=repr)


def test_every_kind_of_change_is_made() -> None:
    placed = (Mention(CIRCLE, RED, 0, 0, 0), Mention(SQUARE, BLUE, 1, 2, 2))
    full = Statement(placed, None, 3, 0, 1)
    related = Statement((Mention(CIRCLE, RED), Mention(SQUARE, BLUE)), 0)
    rng = np.random.default_rng(0)
    found = [changed(full, [full], rng) for _ in range(300)]
    assert {one.count for one in found} == {2, 3} and {one.tone for one in found} == {0, 1}
    assert len({one.pattern for one in found}) > 2 and len({one.mentions[0].row for one in found}) > 1
    assert any(one.mentions[0].colour == one.mentions[1].colour for one in found)  # mentioned twice
    assert any((one.mentions[0].colour, one.mentions[1].colour) == (BLUE, RED) for one in found)  # exchanged
    turned = [changed(related, [related], rng) for _ in range(100)]
    assert any(one.mentions == related.mentions[::-1] for one in turned) and any(one.relation == 1 for one in turned)
