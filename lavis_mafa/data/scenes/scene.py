"""Scenes: up to three coloured shapes on a 3x3 grid, before a varied background."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

SHAPES = ("circle", "square", "triangle", "star", "cross", "ring")
COLOURS = ("red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink")
SIZES = ("small", "big")
ROWS = ("top", "middle", "bottom")
COLUMNS = ("left", "middle", "right")
TONES = ("dark", "light")
PATTERNS = ("plain", "shaded", "striped", "speckled")
RELATIONS = ("left of", "above")  # the converse relations are these with the objects exchanged
GRID = 3
MOST_OBJECTS = 3

T = TypeVar("T")


@dataclass(frozen=True)
class SceneObject:
    """One shape; every field is a position in the tuple of names above (shape in SHAPES, ..., column in COLUMNS)."""

    shape: int
    colour: int
    size: int
    row: int
    column: int

    def stands(self, relation: str, other: SceneObject) -> bool:
        """Whether this object is `relation` (one of RELATIONS) the other, by the cells of the grid."""
        return self.column < other.column if relation == "left of" else self.row < other.row


@dataclass(frozen=True)
class Scene:
    """What an image shows: its objects, each in a cell of its own, and its background (TONES, PATTERNS)."""

    objects: tuple[SceneObject, ...]
    tone: int
    pattern: int


def pick(rng: np.random.Generator, choices: Sequence[T]) -> T:
    """A uniformly drawn element; by `random()` alone, which is fast, and whose stream is least likely to change."""
    return choices[int(rng.random() * len(choices))]


def random_scene(rng: np.random.Generator, counts: Sequence[int] = (1, 2, 2, 3, 3)) -> Scene:
    """A random scene; the number of objects (at most 9) is drawn from `counts`, all else uniformly."""
    cells = list(range(GRID * GRID))
    objects = []
    for _ in range(pick(rng, counts)):
        row, column = divmod(cells.pop(int(rng.random() * len(cells))), GRID)
        shape, colour, size = (int(rng.random() * len(names)) for names in (SHAPES, COLOURS, SIZES))
        objects.append(SceneObject(shape, colour, size, row, column))
    return Scene(tuple(objects), pick(rng, range(len(TONES))), pick(rng, range(len(PATTERNS))))


def scene_number(seed: int, index: int) -> Scene:
    """The scene `index` of the endless list that `seed` names (both >= 0); the same in every process."""
    return random_scene(scene_rng(seed, index, 1))


def scene_rng(seed: int, index: int, stream: int) -> np.random.Generator:
    """The generator of one use of one scene: stream 1 its contents, 2 its captions, 3 its rendering."""
    return np.random.default_rng([seed, index, stream])
