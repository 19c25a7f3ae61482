"""True captions of a scene, from a glance to a full account, mixed so that a wanted share of random pairs matches."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np

from lavis_mafa.data.scenes.grammar import Mention, Statement, say
from lavis_mafa.data.scenes.scene import RELATIONS, Scene, SceneObject, pick

DETAILS = ("glance", "object", "pair", "account")
# P(a caption of this detail holds for another random scene), over 4,000 scenes x 20,000 captions each.
DETAIL_SHARES = (0.0940, 0.0172, 0.00110, 0.000144)


def caption_of(scene: Scene, rng: np.random.Generator, detail: str) -> str:
    """A random true caption of the scene; `detail` is one of DETAILS."""
    return say(statement_of(scene, rng, detail), rng)


def statement_of(scene: Scene, rng: np.random.Generator, detail: str) -> Statement:
    """Something true about the scene, as detailed as named:

    glance: one object by colour, shape or both; object: both, with size, place, count or background; pair: two objects,
    often related (a lone one with size, place and background); account: two or three objects with sizes, and places, a
    relation, a count or the background.
    """
    if detail not in DETAILS:
        raise ValueError(f"unknown detail {detail!r}; choose one of {', '.join(DETAILS)}")
    return _STATERS[detail](scene, rng)


@cache
def mixture(match_share: float) -> tuple[float, ...]:
    """Shares of DETAILS whose captions match a random scene with probability `match_share`.

    Weights are t^level with the t that meets the share, found by bisection; reachable is 0.02 % to 8 %.
    Raises ValueError outside.
    """
    low, high = DETAIL_SHARES[-1], DETAIL_SHARES[0]
    if not low < match_share < high:
        raise ValueError(
            f"match_share {match_share} cannot be reached: choose a value between {low} and {high} (default 0.002)"
        )
    levels, shares = np.arange(len(DETAILS)), np.array(DETAIL_SHARES)
    bounds = [-20.0, 20.0]  # of log t; the share falls as t grows
    for _ in range(60):
        weights = np.exp(sum(bounds) / 2 * levels)
        bounds[0 if weights @ shares > match_share * weights.sum() else 1] = sum(bounds) / 2
    return tuple(float(w) for w in weights / weights.sum())


def _shuffled(scene: Scene, rng: np.random.Generator) -> list[SceneObject]:
    order = np.argsort(rng.random(len(scene.objects)), kind="stable")
    return [scene.objects[i] for i in order]


def _glance(scene: Scene, rng: np.random.Generator) -> Statement:
    thing, form = pick(rng, scene.objects), rng.random()
    shape, colour = thing.shape if form < 0.9 else None, thing.colour if form > 0.1 else None
    return Statement((Mention(shape, colour),))


def _object(scene: Scene, rng: np.random.Generator) -> Statement:
    thing, addition = pick(rng, scene.objects), rng.random()
    bare = Mention(thing.shape, thing.colour)
    if addition < 0.3:
        return Statement((replace(bare, size=thing.size),))
    if addition < 0.6:
        return Statement((_placed(bare, thing, rng),))
    if addition < 0.8:
        return Statement((bare,), count=len(scene.objects))
    return Statement((bare,), tone=scene.tone)


def _pair(scene: Scene, rng: np.random.Generator) -> Statement:
    things = _shuffled(scene, rng)[:2]
    if len(things) == 1:
        alone = Mention(things[0].shape, things[0].colour, things[0].size)
        return Statement((_placed(alone, things[0], rng),), tone=scene.tone)
    relation, things = _relation(things, rng) if rng.random() < 0.5 else (None, things)
    count = len(scene.objects) if rng.random() < 0.2 else None
    return Statement(tuple(Mention(thing.shape, thing.colour) for thing in things), relation, count)


def _account(scene: Scene, rng: np.random.Generator) -> Statement:
    things = _shuffled(scene, rng)[: 3 if rng.random() < 0.6 else 2]
    relation, things = _relation(things, rng) if len(things) == 2 and rng.random() < 0.5 else (None, things)
    sized = rng.random(len(things)) < (0.9 if len(things) < 3 else 0.5)
    mentions = [Mention(t.shape, t.colour, t.size if s else None) for t, s in zip(things, sized, strict=True)]
    if relation is None and len(things) < 3:
        mentions = [_placed(mention, thing, rng) for mention, thing in zip(mentions, things, strict=True)]
    elif rng.random() < 0.3:  # a count beside places, or beside a background, would make too long a caption
        return Statement(tuple(mentions), relation, count=len(scene.objects))
    if len(things) > 1 and rng.random() < 0.5:
        return Statement(tuple(mentions), relation)
    return Statement(tuple(mentions), relation, tone=scene.tone, pattern=scene.pattern)


def _placed(mention: Mention, thing: SceneObject, rng: np.random.Generator) -> Mention:
    """The mention with its cell, or (as often, away from the middle) just its row or its column."""
    form = rng.random()
    if form < 0.25 and thing.row != 1:
        return replace(mention, row=thing.row)
    if form > 0.75 and thing.column != 1:
        return replace(mention, column=thing.column)
    return replace(mention, row=thing.row, column=thing.column)


def _relation(things: list[SceneObject], rng: np.random.Generator) -> tuple[int, list[SceneObject]]:
    """A relation between the two and them in its order; one always holds, as no two share a cell."""
    found = [
        (number, [one, other])
        for number, relation in enumerate(RELATIONS)
        for one, other in (things, things[::-1])
        if one.stands(relation, other)
    ]
    return pick(rng, found)


_STATERS = {"glance": _glance, "object": _object, "pair": _pair, "account": _account}
