"""Questions about scenes with their answers: compositional ones (as in GQA), and ones that ask for knowledge (OK-VQA).

Everything is drawn from the scene's truth by a generator; no question needs the image's rendering.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from lavis_mafa.data.scenes.grammar import PLACES
from lavis_mafa.data.scenes.scene import COLOURS, PATTERNS, RELATIONS, SHAPES, SIZES, TONES, Scene, SceneObject, pick

ANSWERS = 10  # annotators of a knowledge question
CELLS = ("top left", "top", "top right", "left", "center", "right", "bottom left", "bottom", "bottom right")
CONVERSES = {"left of": "right of", "above": "below"}
ASKED = {
    "colour": "what color is {}?",
    "shape": "what shape is {}?",
    "size": "what size is {}?",
    "place": "where is {}?",
}
NAMES = {"colour": COLOURS, "shape": SHAPES, "size": SIZES}
# People's answers, the most common first. https://okvqa.allenai.org asks for such knowledge beside the image.
OF_COLOUR = {
    "red": ("rose", "tomato", "cherry"),
    "orange": ("carrot", "pumpkin"),
    "yellow": ("banana", "lemon", "sun"),
    "green": ("grass", "leaf", "frog"),
    "cyan": ("ice", "lagoon"),
    "blue": ("sky", "ocean"),
    "purple": ("grape", "plum"),
    "pink": ("pig", "flamingo"),
}
OF_SHAPE = {
    "circle": ("ball", "coin", "wheel"),
    "square": ("window", "tile"),
    "triangle": ("roof", "tent"),
    "star": ("starfish", "badge"),
    "cross": ("plus sign", "hospital sign"),
    "ring": ("donut", "bracelet"),
}
CORNERS = {"circle": "0", "ring": "0", "triangle": "3", "square": "4"}
ANSWER_SHARES = (0.65, 0.25, 0.10)  # shares of annotators who give the first, second, third answer


@dataclass(frozen=True)
class Question:
    """`answers`: one of a compositional question, ten of a knowledge question; types as VQA and GQA name them."""

    text: str
    answers: tuple[str, ...]
    question_type: str
    answer_type: str  # yes/no, number, other


Asker = Callable[
    [Scene, np.random.Generator], "tuple[str, str] | None"
]  # question and answer; None if there is nothing to ask


def compositional(scene: Scene, rng: np.random.Generator) -> Question:
    """A question with one answer that follows from the scene; question types are GQA's structural ones, and count."""
    while True:
        kind = pick(rng, KINDS)
        if (found := pick(rng, _ASKERS[kind])(scene, rng)) is not None:
            return Question(found[0], (found[1],), kind, _answer_type(found[1]))


def knowledge(scene: Scene, rng: np.random.Generator) -> Question:
    """A question whose answer is not in the image, with the answers of ten people."""
    while True:
        thing, kind = pick(rng, scene.objects), pick(rng, ("color", "form", "corners"))
        shape, colour = SHAPES[thing.shape], COLOURS[thing.colour]
        hidden = "colour" if kind == "color" else "shape"
        name = refer(scene, thing, rng, hidden)
        if name is None or (kind == "corners" and shape not in CORNERS):
            continue
        if kind == "corners":
            return Question(f"how many corners does {name} have?", (CORNERS[shape],) * ANSWERS, kind, "number")
        known = OF_COLOUR[colour] if kind == "color" else OF_SHAPE[shape]
        shares = np.array(ANSWER_SHARES[: len(known)])
        chosen = rng.choice(len(known), ANSWERS, p=shares / shares.sum())
        return Question(f"what else has the {kind} of {name}?", tuple(known[i] for i in chosen), kind, "other")


def _answer_type(answer: str) -> str:
    return "yes/no" if answer in ("yes", "no") else "number" if answer.isdigit() else "other"


def refer(scene: Scene, thing: SceneObject, rng: np.random.Generator, hidden: str = "") -> str | None:
    """A phrase that only this object fits and that does not give `hidden` away; None where there is none."""
    fields = [field for field in ("colour", "shape", "size", "place") if field != hidden]
    others = [other for other in scene.objects if other is not thing]
    for count in range(1, len(fields) + 1):
        telling = [
            chosen
            for chosen in combinations(fields, count)
            if not any(all(value(other, f) == value(thing, f) for f in chosen) for other in others)
        ]
        if telling:
            related = _by_relation(scene, thing, rng) if others and rng.random() < 0.3 and hidden != "place" else None
            return related or "the " + phrase(thing, pick(rng, telling))
    return None


def _by_relation(scene: Scene, thing: SceneObject, rng: np.random.Generator) -> str | None:
    """'the object left of the red circle', where only one stands so."""
    anchor = pick(rng, [other for other in scene.objects if other is not thing])
    relation, standing = pick(rng, list(relations(thing, anchor)))
    if not standing or sum(dict(relations(other, anchor))[relation] for other in scene.objects if other != anchor) > 1:
        return None
    name = refer_plainly(scene, anchor)
    return name and f"the object {relation} {name}"


def refer_plainly(scene: Scene, thing: SceneObject) -> str | None:
    """'the red circle', where there is one only."""
    same = [other for other in scene.objects if (other.shape, other.colour) == (thing.shape, thing.colour)]
    return f"the {phrase(thing, ('colour', 'shape'))}" if len(same) == 1 else None


def relations(one: SceneObject, other: SceneObject) -> Iterator[tuple[str, bool]]:
    """Every relation by name, and whether `one` stands in it to the other."""
    for relation in RELATIONS:
        yield relation, one.stands(relation, other)
        yield CONVERSES[relation], other.stands(relation, one)


def value(thing: SceneObject, field: str) -> str:
    """The name of an object's colour, shape, size or place."""
    return CELLS[3 * thing.row + thing.column] if field == "place" else NAMES[field][getattr(thing, field)]


def phrase(thing: SceneObject, fields: Sequence[str]) -> str:
    """'small red circle in the center', as far as `fields` go."""
    words = [value(thing, field) for field in ("size", "colour") if field in fields]
    words.append(value(thing, "shape") if "shape" in fields else "object")
    return " ".join(words + [PLACES[thing.row, thing.column][0]] * ("place" in fields))


def _query(scene: Scene, rng: np.random.Generator) -> tuple[str, str] | None:
    thing, field = pick(rng, scene.objects), pick(rng, tuple(ASKED))
    name = refer(scene, thing, rng, field)
    return (ASKED[field].format(name), value(thing, field)) if name else None


def _background(scene: Scene, rng: np.random.Generator) -> tuple[str, str]:
    return "what pattern does the background have?", PATTERNS[scene.pattern]


def _tone(scene: Scene, rng: np.random.Generator) -> tuple[str, str]:
    return "is the background dark or light?", TONES[scene.tone]


def _choose(scene: Scene, rng: np.random.Generator) -> tuple[str, str] | None:
    thing, field = pick(rng, scene.objects), pick(rng, tuple(NAMES))
    true = value(thing, field)
    pair = [true, pick(rng, [name for name in NAMES[field] if name != true])]
    name = refer(scene, thing, rng, field)
    first, second = pair if rng.random() < 0.5 else pair[::-1]
    shown = "a {} or a {}" if field == "shape" else "{} or {}"
    return (f"is {name} {shown.format(first, second)}?", true) if name else None


def _mention(scene: Scene, rng: np.random.Generator) -> tuple[str, bool]:
    """'a red circle' that is there, or (as often) one that is not and differs from one by a single attribute."""
    wanted = rng.random() < 0.5
    while True:
        thing, there = pick(rng, scene.objects), True
        fields = ("colour", "shape") if rng.random() < 0.7 else ("size", "colour", "shape")
        named = {field: value(thing, field) for field in fields}
        if not wanted:
            field = pick(rng, fields)
            named[field] = pick(rng, NAMES[field])
            there = any(all(value(one, f) == named[f] for f in fields) for one in scene.objects)
        if there == wanted:
            words = [named[field] for field in ("size", "colour", "shape") if field in named]
            return ("an " if words[0][0] in "aeiou" else "a ") + " ".join(words), there


def _exists(scene: Scene, rng: np.random.Generator) -> tuple[str, str]:
    name, there = _mention(scene, rng)
    return f"is there {name}?", _yes(there)


def _stands(scene: Scene, rng: np.random.Generator) -> tuple[str, str] | None:
    if len(scene.objects) < 2:
        return None
    one, other = _two(scene, rng)
    names = [refer_plainly(scene, thing) for thing in (one, other)]
    wanted = rng.random() < 0.5
    fitting = [relation for relation, stands in relations(one, other) if stands == wanted]
    return (f"is {names[0]} {pick(rng, fitting)} {names[1]}?", _yes(wanted)) if all(names) else None


def _both(scene: Scene, rng: np.random.Generator) -> tuple[str, str] | None:
    (first, one), (second, other) = _mention(scene, rng), _mention(scene, rng)
    if first == second:
        return None
    if rng.random() < 0.5:
        return f"is there {first} or {second}?", _yes(one or other)
    return f"are there both {first} and {second}?", _yes(one and other)


def _same(scene: Scene, rng: np.random.Generator) -> tuple[str, str] | None:
    if len(scene.objects) < 2:
        return None
    one, other = _two(scene, rng)
    field = pick(rng, tuple(NAMES))
    names = [refer(scene, thing, rng, field) for thing in (one, other)]
    same = value(one, field) == value(other, field)
    if not all(names) or (not same and field != "size" and rng.random() < 0.7):  # most differ: balance
        return None
    return f"do {names[0]} and {names[1]} have the same {'color' if field == 'colour' else field}?", _yes(same)


def _count(scene: Scene, rng: np.random.Generator) -> tuple[str, str]:
    field = pick(rng, ("", *NAMES))
    if not field:
        return "how many objects are there?", str(len(scene.objects))
    name = value(pick(rng, scene.objects), field) if rng.random() < 0.8 else pick(rng, NAMES[field])
    found = sum(value(thing, field) == name for thing in scene.objects)
    plural = {"shape": f"{name}es" if name == "cross" else f"{name}s"}.get(field, f"{name} objects")
    return f"how many {plural} are there?", str(found)


def _two(scene: Scene, rng: np.random.Generator) -> tuple[SceneObject, SceneObject]:
    one = pick(rng, scene.objects)
    return one, pick(rng, [other for other in scene.objects if other is not one])


def _yes(true: bool) -> str:
    return "yes" if true else "no"


_ASKERS: dict[str, tuple[Asker, ...]] = {
    "query": (_query, _query, _query, _background),
    "verify": (_exists, _stands),
    "choose": (_choose, _choose, _tone),
    "logical": (_both,),
    "compare": (_same,),
    "count": (_count,),
}
KINDS = ("query", "query", "verify", "verify", "choose", "logical", "compare", "count")
