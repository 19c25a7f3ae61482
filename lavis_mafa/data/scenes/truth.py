"""Does a caption hold for a scene? By definition (`holds`), and for whole blocks of pairs at once (`holds_codes`).

A caption holds if there are distinct objects that fit its mentions, the first in the stated relation to the second, and
if count and background are as stated (what is not stated is free).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass
from itertools import permutations

import numpy as np
from numpy.typing import NDArray

from lavis_mafa.data.scenes.grammar import Mention, Statement, parse
from lavis_mafa.data.scenes.scene import (
    COLOURS,
    COLUMNS,
    MOST_OBJECTS,
    PATTERNS,
    RELATIONS,
    ROWS,
    SHAPES,
    SIZES,
    TONES,
    Scene,
    SceneObject,
)

_OBJECT_FIELDS = (len(SHAPES), len(COLOURS), len(SIZES), len(ROWS), len(COLUMNS))
_WHOLE_FIELDS = (MOST_OBJECTS + 1, len(TONES), len(PATTERNS))
_MATCHES = tuple(permutations(range(MOST_OBJECTS)))  # object of mention 0, 1, 2


def holds(scene: Scene, caption: str) -> bool:
    """Whether the caption is true of the scene. ValueError for a caption outside the grammar."""
    statement = parse(caption)
    whole = ((statement.count, len(scene.objects)), (statement.tone, scene.tone), (statement.pattern, scene.pattern))
    if any(stated is not None and stated != true for stated, true in whole):
        return False
    return any(_match(statement, chosen) for chosen in permutations(scene.objects, len(statement.mentions)))


def _match(statement: Statement, chosen: Sequence[SceneObject]) -> bool:
    if statement.relation is not None and not chosen[0].stands(RELATIONS[statement.relation], chosen[1]):
        return False
    return all(_fits(thing, mention) for thing, mention in zip(chosen, statement.mentions, strict=True))


def _fits(thing: SceneObject, mention: Mention) -> bool:
    fields = zip(astuple(thing), astuple(mention), strict=True)
    return all(stated is None or stated == true for true, stated in fields)


@dataclass(frozen=True)
class Codes:
    """Scenes or statements as bit masks: what a scene has, or what a statement demands, one bit a value.

    whole (N,): count, tone, pattern. things (N, 3): shape, colour, size, row, column of object or mention 0, 1, 2, and
    that it is there. relations (N, 3, 3) of a scene: those of the first object to the second; (N,) of a statement.
    """

    whole: NDArray[np.uint32]
    things: NDArray[np.uint32]
    relations: NDArray[np.uint8]


def scene_codes(scenes: Sequence[Scene]) -> Codes:
    """Codes of N scenes of at most three objects."""
    codes = Codes(
        np.zeros(len(scenes), np.uint32),
        np.zeros((len(scenes), MOST_OBJECTS), np.uint32),
        np.zeros((len(scenes), MOST_OBJECTS, MOST_OBJECTS), np.uint8),
    )
    for n, scene in enumerate(scenes):
        codes.whole[n] = _mask((len(scene.objects), scene.tone, scene.pattern), _WHOLE_FIELDS)
        for i, one in enumerate(scene.objects):
            codes.things[n, i] = _mask((one.shape, one.colour, one.size, one.row, one.column), _OBJECT_FIELDS)
            for j, other in enumerate(scene.objects):
                codes.relations[n, i, j] = sum(1 << r for r, name in enumerate(RELATIONS) if one.stands(name, other))
    return codes


def statement_codes(statements: Sequence[Statement]) -> Codes:
    """Codes of C statements."""
    codes = Codes(
        np.zeros(len(statements), np.uint32),
        np.zeros((len(statements), MOST_OBJECTS), np.uint32),
        np.zeros(len(statements), np.uint8),
    )
    for n, statement in enumerate(statements):
        codes.whole[n] = _mask((statement.count, statement.tone, statement.pattern), _WHOLE_FIELDS)
        codes.relations[n] = 0 if statement.relation is None else 1 << statement.relation
        for i, m in enumerate(statement.mentions):
            codes.things[n, i] = _mask((m.shape, m.colour, m.size, m.row, m.column), _OBJECT_FIELDS)
    return codes


def _mask(values: Sequence[int | None], sizes: Sequence[int]) -> int:
    """Bit 0, and for every value that is given its bit in its field."""
    mask, start = 1, 1
    for value, size in zip(values, sizes, strict=True):
        mask |= 0 if value is None else 1 << (start + value)
        start += size
    return mask


def holds_codes(
    scenes: Codes, statements: Codes, scene_index: NDArray[np.int64], statement_index: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Truth of pairs; the indices broadcast: (K,) and (K,) give K pairs, (N, 1) and (1, C) the whole block."""
    whole = statements.whole[statement_index]
    result: NDArray[np.bool_] = (scenes.whole[scene_index] & whole) == whole
    # An absent mention demands nothing (0), so even an absent object (0) fits it.
    demanded = [statements.things[statement_index, m] for m in range(MOST_OBJECTS)]
    present = [scenes.things[scene_index, i] for i in range(MOST_OBJECTS)]
    fits = [[(thing & wanted) == wanted for thing in present] for wanted in demanded]
    relation = statements.relations[statement_index]
    found = np.zeros_like(result)
    for first, second, third in _MATCHES:
        related = (scenes.relations[scene_index, first, second] & relation) == relation
        found |= fits[0][first] & fits[1][second] & fits[2][third] & related
    result &= found
    return result
