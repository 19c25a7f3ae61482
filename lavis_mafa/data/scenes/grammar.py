"""The language of scene captions: what a caption states, its paraphrases, and the way back.

A caption is a wording whose slots hold mentions of objects, within a frame and with or without a background. `say`
writes captions and `parse` reads them by the same tables. A place belongs to the mention that it follows; statements
with a relation name no places, so that 'at the top left of ...' does not arise. A count is of all objects of the scene.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from lavis_mafa.data.scenes.scene import COLOURS, PATTERNS, SHAPES, SIZES, TONES, pick


@dataclass(frozen=True)
class Mention:
    """One object as far as it is described; None is not stated. Fields and numbers as in SceneObject."""

    shape: int | None = None
    colour: int | None = None
    size: int | None = None
    row: int | None = None
    column: int | None = None


@dataclass(frozen=True)
class Statement:
    """What a caption says: distinct objects fit the 1-3 mentions; the first is in `relation` (RELATIONS) to the second;
    `count` objects in all; a background of `tone` and `pattern`. None is not stated."""

    mentions: tuple[Mention, ...]
    relation: int | None = None
    count: int | None = None
    tone: int | None = None
    pattern: int | None = None


Kind: TypeAlias = tuple[int, "int | None", "int | None"]  # number of mentions, relation, count

SYNONYMS = {
    "circle": ("disk",),
    "square": ("box",),
    "cross": ("plus",),
    "ring": ("hoop",),
    "purple": ("violet",),
    "cyan": ("turquoise",),
    "small": ("little", "tiny"),
    "big": ("large",),
    "light": ("pale",),
    "speckled": ("grainy",),
}
ANY_SHAPE = ("object", "shape", "thing")
BACKDROPS = ("background", "backdrop")
PLACES: dict[tuple[int | None, int | None], tuple[str, ...]] = {  # (row, column): phrases
    (0, None): ("at the top",),
    (1, None): ("in the middle row",),
    (2, None): ("at the bottom",),
    (None, 0): ("on the left", "on the left side"),
    (None, 1): ("in the middle column",),
    (None, 2): ("on the right", "on the right side"),
    (0, 0): ("in the top left corner", "at the top left", "in the upper left corner"),
    (0, 1): ("at the top center", "in the top middle"),
    (0, 2): ("in the top right corner", "at the top right", "in the upper right corner"),
    (1, 0): ("at the center left", "in the middle left"),
    (1, 1): ("in the center", "in the middle"),
    (1, 2): ("at the center right", "in the middle right"),
    (2, 0): ("in the bottom left corner", "at the bottom left", "in the lower left corner"),
    (2, 1): ("at the bottom center", "in the bottom middle"),
    (2, 2): ("in the bottom right corner", "at the bottom right", "in the lower right corner"),
}
_UNCOUNTED: dict[Kind, tuple[str, ...]] = {
    (1, None, None): ("{0}",),
    (2, None, None): ("{0} and {1}", "{0} together with {1}", "{0}, {1}"),
    (3, None, None): ("{0}, {1} and {2}", "{0} and {1} and {2}"),
    (2, 0, None): (
        "{0} left of {1}",
        "{0} to the left of {1}",
        "{1} right of {0}",
        "{1} to the right of {0}",
        "{1} with {0} to its left",
    ),
    (2, 1, None): ("{0} above {1}", "{0} over {1}", "{1} below {0}", "{1} under {0}", "{1} with {0} above it"),
}
_COUNTED = {  # (mentions, count)
    (1, 1): ("only {}", "one object, {}", "a single object, {}"),
    (1, 2): ("two objects, one is {}", "two things, one of them is {}"),
    (1, 3): ("three objects, one is {}", "three things, one of them is {}"),
    (2, 2): ("two objects, {}", "two things, {}", "only {}"),
    (2, 3): ("three objects, among them {}", "three things, among them {}"),
    (3, 3): ("three objects, {}", "three things, {}", "only {}"),
}
FRAMES = ("{}", "{}", "{}", "{}", "{}", "a picture of {}", "an image of {}", "we see {}")
BACKED = ("{} on B", "{} on B", "{} against B", "on B, {}")


def words(name: str) -> tuple[str, ...]:
    """A name of scene.py and its synonyms."""
    return (name, *SYNONYMS.get(name, ()))


def _wordings() -> dict[Kind, tuple[str, ...]]:
    """Every way to put the mentions {0}, {1}, {2} together, by what it adds to them."""
    counted: dict[Kind, tuple[str, ...]] = {
        (mentions, relation, count): tuple(outer.format(inner) for outer in outers for inner in inners)
        for (mentions, count), outers in _COUNTED.items()
        for (slots, relation, _), inners in _UNCOUNTED.items()
        if slots == mentions
    }
    return {**_UNCOUNTED, **counted}


def _readings() -> dict[str, tuple[Kind, tuple[int, ...]]]:
    """Caption with its mentions as X and its background as B → its kind, and the mention's number for every X."""
    found: dict[str, tuple[Kind, tuple[int, ...]]] = {}
    for kind, wordings in WORDINGS.items():
        for wording in wordings:
            order = tuple(int(digit) for digit in re.findall(r"\{(\d)\}", wording))
            for frame in FRAMES:
                framed = frame.format(re.sub(r"\{\d\}", "X", wording))
                for text in (framed, *(backed.format(framed) for backed in BACKED)):
                    assert found.setdefault(text, (kind, order)) == (kind, order), f"{text!r} has two meanings"
    return found


def _any_of(phrases: list[str]) -> str:
    return "|".join(sorted(phrases, key=len, reverse=True))  # the longest first: 'at the top left', then 'at the top'


def _numbered(field: str, names: tuple[str, ...]) -> dict[str, tuple[str, int | None]]:
    return {word: (field, number) for number, name in enumerate(names) for word in words(name)}


WORDINGS = _wordings()
_READINGS = _readings()
_MEANING = {
    **_numbered("shape", SHAPES),
    **_numbered("colour", COLOURS),
    **_numbered("size", SIZES),
    **_numbered("tone", TONES),
    **_numbered("pattern", PATTERNS),
    **dict.fromkeys(ANY_SHAPE, ("shape", None)),
}
_PLACED = {phrase: place for place, phrases in PLACES.items() for phrase in phrases}
_WORD = {field: _any_of([w for w, (of, _) in _MEANING.items() if of == field]) for field, _ in _MEANING.values()}
_EITHER = f"{_WORD['size']}|{_WORD['colour']}"
_MENTION = re.compile(
    rf"\ban? (?:({_WORD['size']}) )?(?:({_WORD['colour']}) )?({_WORD['shape']})\b"
    rf"(?: in ({_WORD['colour']})\b| that is ({_EITHER})\b(?: and ({_EITHER})\b)?)?(?: ({_any_of(list(_PLACED))})\b)?"
)
_BACKGROUND = re.compile(rf"\ba (?:({_WORD['tone']}) )?(?:({_WORD['pattern']}) )?(?:{_any_of(list(BACKDROPS))})\b")


def say(statement: Statement, rng: np.random.Generator) -> str:
    """One of the captions that say this. ValueError for a statement that the grammar has no wording for."""
    kind = (len(statement.mentions), statement.relation, statement.count)
    if kind not in WORDINGS:
        raise ValueError(f"no wording for {kind} (mentions, relation, count); known are {sorted(WORDINGS, key=str)}")
    wording = pick(rng, WORDINGS[kind]).format(*(_say_mention(mention, rng) for mention in statement.mentions))
    background = [pick(rng, words(name)) for name in _background_names(statement)]
    backed = pick(rng, BACKED) if background else "{}"
    frame = pick(rng, FRAMES) if backed.startswith("{}") else "{}"  # no 'on a dark background, a picture of'
    return backed.format(frame.format(wording)).replace("B", f"a {' '.join(background)} {pick(rng, BACKDROPS)}")


def _background_names(statement: Statement) -> list[str]:
    given = ((TONES, statement.tone), (PATTERNS, statement.pattern))
    return [names[number] for names, number in given if number is not None]


def _say_mention(mention: Mention, rng: np.random.Generator) -> str:
    size = [] if mention.size is None else [pick(rng, words(SIZES[mention.size]))]
    colour = [] if mention.colour is None else [pick(rng, words(COLOURS[mention.colour]))]
    noun = pick(rng, ANY_SHAPE if mention.shape is None else words(SHAPES[mention.shape]))
    place = PLACES.get((mention.row, mention.column))
    form = rng.random()
    if form < 0.1 and colour:
        phrase = [*size, noun, "in", *colour]
    elif form < 0.2 and size + colour and not place:  # with a place it would grow too long
        phrase = [noun, "that is", " and ".join(size + colour)]
    else:
        phrase = [*size, *colour, noun]
    if place:
        phrase.append(pick(rng, place))
    return " ".join(["an" if phrase[0][0] in "aeiou" else "a", *phrase])


def parse(caption: str) -> Statement:
    """What a caption says; the inverse of `say`, up to the order of mentions without a relation.

    ValueError where the caption is none of the grammar.
    """
    text = " ".join(caption.lower().replace(" ,", ",").split()).rstrip(". ")
    mentions = [_read_mention(match) for match in _MENTION.finditer(text)]
    background = {}
    for match in _BACKGROUND.finditer(text):
        background = dict(_MEANING[word] for word in match.groups() if word)
    skeleton = _BACKGROUND.sub("B", _MENTION.sub("X", text))
    if skeleton not in _READINGS or bool(background) != ("B" in skeleton):
        raise ValueError(f"{caption!r} is not a caption of a scene ({skeleton!r} is not in the grammar)")
    (_, relation, count), order = _READINGS[skeleton]
    in_slots = tuple(mentions[order.index(slot)] for slot in range(len(order)))
    return Statement(in_slots, relation, count, background.get("tone"), background.get("pattern"))


def _read_mention(match: re.Match[str]) -> Mention:
    *adjectives, place = match.groups()
    stated = [_MEANING[word] for word in adjectives if word]
    fields = dict(stated)
    if len(fields) < len(stated):
        raise ValueError(f"{match.group()!r} repeats itself")
    row, column = _PLACED.get(place, (None, None))
    return Mention(**fields, row=row, column=column)


def vocabulary() -> list[str]:
    """All words and marks of the grammar, sorted."""
    texts = [*_MEANING, *_PLACED, *BACKDROPS, *BACKED, *FRAMES, *(w for ws in WORDINGS.values() for w in ws)]
    return sorted({word for text in (*texts, "a an in that is and") for word in re.findall(r"[a-z]+|,", text)})
