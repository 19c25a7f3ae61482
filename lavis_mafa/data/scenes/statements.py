"""Statements about two scenes side by side, true or false in equal shares: NLVR2's task (arXiv 1811.00491)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from lavis_mafa.data.scenes.questions import NAMES, value
from lavis_mafa.data.scenes.scene import Scene, SceneObject, pick

NUMBERS = ("no", "one", "two", "three")
TRIES = 20  # of a kind of statement; some hold of no two scenes (both show what only one has)
Stater = Callable[[Scene, Scene, np.random.Generator], tuple[str, bool]]


def statement_about(left: Scene, right: Scene, rng: np.random.Generator) -> tuple[str, bool]:
    """(sentence, whether it holds). Whether it holds is drawn first, so that the sentence gives nothing away."""
    wanted = rng.random() < 0.5
    while True:
        state = pick(rng, STATERS)
        for _ in range(TRIES):
            sentence, holds = state(left, right, rng)
            if holds == wanted:
                return sentence, holds


def _name(scene: Scene, rng: np.random.Generator) -> tuple[str, dict[str, str]]:
    """'red circle' after an object of the scene, sometimes with one word changed; and its fields."""
    thing = pick(rng, scene.objects)
    fields = ("colour", "shape") if rng.random() < 0.7 else ("size", "colour", "shape")
    named = {field: value(thing, field) for field in fields}
    if rng.random() < 0.5:
        changed = pick(rng, fields)
        named[changed] = pick(rng, NAMES[changed])
    return " ".join(named[field] for field in ("size", "colour", "shape") if field in named), named


def _fitting(scene: Scene, named: dict[str, str]) -> list[SceneObject]:
    return [thing for thing in scene.objects if all(value(thing, field) == word for field, word in named.items())]


def _article(name: str) -> str:
    return ("an " if name[0] in "aeiou" else "a ") + name


def _side(left: Scene, right: Scene, rng: np.random.Generator) -> tuple[str, bool]:
    side, scene = ("left", left) if rng.random() < 0.5 else ("right", right)
    name, named = _name(pick(rng, (left, right)), rng)
    return f"the {side} image contains {_article(name)}", bool(_fitting(scene, named))


def _word(left: Scene, right: Scene, rng: np.random.Generator) -> tuple[str, list[int]]:
    """'ring' or 'red object', of which there is often one; and how many the left and the right image show."""
    field = pick(rng, ("colour", "shape"))
    seen = pick(rng, pick(rng, (left, right)).objects)
    word = value(seen, field) if rng.random() < 0.6 else pick(rng, NAMES[field])
    found = [len(_fitting(scene, {field: word})) for scene in (left, right)]
    return word if field == "shape" else f"{word} object", found


def _both(left: Scene, right: Scene, rng: np.random.Generator) -> tuple[str, bool]:
    name, found = _word(left, right, rng)
    return f"both images contain {_article(name)}", all(found)


def _one(left: Scene, right: Scene, rng: np.random.Generator) -> tuple[str, bool]:
    name, found = _word(left, right, rng)
    return f"exactly one image contains {_article(name)}", bool(found[0]) != bool(found[1])


def _neither(left: Scene, right: Scene, rng: np.random.Generator) -> tuple[str, bool]:
    name, found = _word(left, right, rng)
    return f"neither image contains {_article(name)}", not any(found)


def _count(left: Scene, right: Scene, rng: np.random.Generator) -> tuple[str, bool]:
    name, found = _word(left, right, rng)
    # a wrong number is another word's, so that "one" is wrong about as often as "no" is
    number = sum(found) if rng.random() < 0.5 else sum(_word(left, right, rng)[1])
    if number >= len(NUMBERS):
        return f"there are more than three {_plural(name)} in the two images", sum(found) >= len(NUMBERS)
    claim = f"is one {name}" if number == 1 else f"are {NUMBERS[number]} {_plural(name)}"
    return f"there {claim} in the two images", number == sum(found)


def _plural(name: str) -> str:
    return f"{name}es" if name == "cross" else f"{name}s"


def _compare(left: Scene, right: Scene, rng: np.random.Generator) -> tuple[str, bool]:
    sides = [("left", left), ("right", right)]
    (one, first), (other, second) = sides if rng.random() < 0.5 else sides[::-1]
    if rng.random() < 0.5:
        more = len(first.objects) > len(second.objects)
        return f"the {one} image shows more objects than the {other} image", more
    return "the two images show the same number of objects", len(first.objects) == len(second.objects)


STATERS: tuple[Stater, ...] = (_side, _side, _both, _one, _neither, _count, _compare)
