"""Captions with one stated thing changed, from the caption alone.

Like NegCLIP (Yuksekgonul et al., ICLR 2023), which makes hard negatives by rules of language. The scene is not
consulted, so a changed caption may by chance be true. A change that the image's other captions confirm is drawn again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from lavis_mafa.data.scenes.grammar import PLACES, Mention, Statement
from lavis_mafa.data.scenes.scene import COLOURS, MOST_OBJECTS, PATTERNS, RELATIONS, SHAPES, SIZES, TONES, pick

KNOWN = 0.7  # how often a new value is one that the image's other captions name
ATTRIBUTES = {"shape": len(SHAPES), "colour": len(COLOURS), "size": len(SIZES)}
BACKGROUND = {"tone": len(TONES), "pattern": len(PATTERNS)}
TRIES = 100


def changed(statement: Statement, siblings: Sequence[Statement], rng: np.random.Generator) -> Statement:
    """The statement with one thing changed: an attribute, a place, the relation, the count or the background; or with
    two objects' attributes exchanged, or one object mentioned twice.

    siblings: the image's other captions. A new attribute is mostly one that they name, so that the words alone, without
    the objects they describe, do not reveal the change.
    """
    kinds = [kind for kind in _CHANGES if kind(statement, siblings, rng) is not None]
    mentioned = {mention for sibling in siblings for mention in sibling.mentions}
    for _ in range(TRIES):
        found = pick(rng, kinds)(statement, siblings, rng)
        if (
            found is not None
            and _meaning(found) != _meaning(statement)
            and not _is_mentioned(found, statement, mentioned)
        ):
            return found
    return _attribute(statement, (), rng)


def _meaning(statement: Statement) -> tuple[object, ...]:
    """Without a relation the order of the mentions says nothing."""
    order = statement.mentions if statement.relation is not None else tuple(sorted(statement.mentions, key=repr))
    return order, statement.relation, statement.count, statement.tone, statement.pattern


def _is_mentioned(found: Statement, statement: Statement, mentioned: set[Mention]) -> bool:
    """Whether a new mention fits an object that the siblings mention."""
    new = set(found.mentions) - set(statement.mentions)
    return any(_fits(mention, other) for mention in new for other in mentioned)


def _fits(mention: Mention, other: Mention) -> bool:
    stated = {name: value for name, value in vars(mention).items() if value is not None}
    return all(getattr(other, name) == value for name, value in stated.items())


def _with(statement: Statement, number: int, mention: Mention) -> Statement:
    mentions = list(statement.mentions)
    mentions[number] = mention
    return replace(statement, mentions=tuple(mentions))


def _attribute(statement: Statement, siblings: Sequence[Statement], rng: np.random.Generator) -> Statement:
    number = int(rng.integers(len(statement.mentions)))
    mention = statement.mentions[number]
    names = [name for name in ATTRIBUTES if getattr(mention, name) is not None]
    name = pick(rng, names)
    others = [value for value in range(ATTRIBUTES[name]) if value != getattr(mention, name)]
    named = {getattr(other, name) for sibling in siblings for other in sibling.mentions}
    near = [value for value in others if value in named]
    return _with(
        statement, number, replace(mention, **{name: pick(rng, near if near and rng.random() < KNOWN else others)})
    )


def _place(statement: Statement, siblings: Sequence[Statement], rng: np.random.Generator) -> Statement | None:
    """Another place that cannot be the same."""
    placed = [n for n, mention in enumerate(statement.mentions) if (mention.row, mention.column) != (None, None)]
    if not placed:
        return None
    number = pick(rng, placed)
    mention = statement.mentions[number]
    others = [(row, column) for row, column in PLACES if _apart(mention.row, row) or _apart(mention.column, column)]
    row, column = pick(rng, others)
    return _with(statement, number, replace(mention, row=row, column=column))


def _apart(one: int | None, other: int | None) -> bool:
    return one is not None and other is not None and one != other


def _exchange(statement: Statement, siblings: Sequence[Statement], rng: np.random.Generator) -> Statement | None:
    if len(statement.mentions) < 2:
        return None
    first, second = (int(number) for number in rng.permutation(len(statement.mentions))[:2])
    one, other = statement.mentions[first], statement.mentions[second]
    names = [name for name in ATTRIBUTES if None not in (getattr(one, name), getattr(other, name))]
    names = [name for name in names if getattr(one, name) != getattr(other, name)]
    if not names:
        return None
    name = pick(rng, names)
    found = _with(statement, first, replace(one, **{name: getattr(other, name)}))
    return _with(found, second, replace(other, **{name: getattr(one, name)}))


def _twice(statement: Statement, siblings: Sequence[Statement], rng: np.random.Generator) -> Statement | None:
    """One object's shape and colour given to another as well: scenes seldom have two equal objects."""
    if len(statement.mentions) < 2:
        return None
    first, second = (int(number) for number in rng.permutation(len(statement.mentions))[:2])
    one = statement.mentions[first]
    like = replace(statement.mentions[second], shape=one.shape, colour=one.colour)
    return _with(statement, second, like)


def _relation(statement: Statement, siblings: Sequence[Statement], rng: np.random.Generator) -> Statement | None:
    """The converse, or, at times, another relation, which may be true as well."""
    if statement.relation is None:
        return None
    if rng.random() < 0.75:
        return replace(statement, mentions=statement.mentions[::-1])
    return replace(statement, relation=(statement.relation + 1) % len(RELATIONS))


def _count(statement: Statement, siblings: Sequence[Statement], rng: np.random.Generator) -> Statement | None:
    others = [count for count in range(len(statement.mentions), MOST_OBJECTS + 1) if count != statement.count]
    return replace(statement, count=pick(rng, others)) if statement.count is not None and others else None


def _background(statement: Statement, siblings: Sequence[Statement], rng: np.random.Generator) -> Statement | None:
    names = [name for name in BACKGROUND if getattr(statement, name) is not None]
    if not names:
        return None
    name = pick(rng, names)
    others = [value for value in range(BACKGROUND[name]) if value != getattr(statement, name)]
    changed = pick(rng, others)
    return replace(statement, tone=changed) if name == "tone" else replace(statement, pattern=changed)


# How often each kind is tried: more often what captions rarely state, which is learnt last.
_CHANGES = (_attribute, *(_place,) * 3, _exchange, _twice, _relation, *(_count,) * 3, *(_background,) * 2)
