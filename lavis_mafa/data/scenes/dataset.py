"""Scenes as records: images rendered on the fly, captions, and the truth about every pair."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image

from lavis_mafa.data.annotations import ROWS
from lavis_mafa.data.records import RecordTable
from lavis_mafa.data.scenes.captions import DETAILS, mixture, statement_of
from lavis_mafa.data.scenes.grammar import Statement, say
from lavis_mafa.data.scenes.render import render
from lavis_mafa.data.scenes.scene import Scene, random_scene, scene_number, scene_rng
from lavis_mafa.data.scenes.truth import holds_codes, scene_codes, statement_codes

Ints = NDArray[np.int64]


def scenes_table(
    n: int,
    seed: int,
    match_share: float = 0.002,
    noise: float = 0.0,
    captions_a_scene: int = 2,
    details: Sequence[str] | None = None,
) -> tuple[RecordTable, Callable[[int], Image.Image], Callable[[Ints, Ints], NDArray[np.bool_]]]:
    """`n` scenes of `seed` with distinct captions each: (table, open_image, truth), the same in every process.

    match_share: the probability that a caption holds for another random scene, by the mixture of details. noise: share
    of captions that describe a random other scene. details: captions of these details alone, in equal shares, whatever
    the match_share. Give every split a seed of its own.
    open_image(record) renders an RGB image of 48 x 48 pixels. truth(records, caption rows) says which pairs match; the
    two broadcast, so (N, 1) and (1, C) give a whole block. ValueError for a setting out of range.
    """
    if n < 1 or seed < 0 or captions_a_scene < 1 or not 0 <= noise <= 1:
        raise ValueError("scenes need n >= 1, seed >= 0, captions_a_scene >= 1 and 0 <= noise <= 1")
    scenes = [scene_number(seed, index) for index in range(n)]
    shares = np.cumsum(mixture(match_share) if details is None else _equal_shares(details))
    captions_N = [
        _captions(scene, scene_rng(seed, i, 2), shares, noise, captions_a_scene) for i, scene in enumerate(scenes)
    ]
    keys = [f"scene/{seed}/{index}" for index in range(n)]
    rows = pa.table({"image": keys, "caption": [list(captions) for captions in captions_N], "image_id": keys}).cast(
        ROWS
    )
    statements = [statement for captions in captions_N for statement in captions.values()]
    truth = partial(holds_codes, scene_codes(scenes), statement_codes(statements))
    return RecordTable.from_rows(rows, dataset="scenes"), partial(open_scene, seed), truth


def _equal_shares(details: Sequence[str]) -> list[float]:
    unknown = set(details) - set(DETAILS)
    if unknown or not details:
        raise ValueError(f"details are {list(details)}; choose among {', '.join(DETAILS)}")
    return [(detail in details) / len(set(details)) for detail in DETAILS]


def open_scene(seed: int, index: int) -> Image.Image:
    """The image of scene `index` of `seed`."""
    return render(scene_number(seed, index), scene_rng(seed, index, 3))


def _captions(
    scene: Scene, rng: np.random.Generator, shares: NDArray[np.float64], noise: float, count: int
) -> dict[str, Statement]:
    """`count` distinct captions with what they state; `shares` are the running sums over DETAILS."""
    captions: dict[str, Statement] = {}
    while len(captions) < count:
        level = min(int(np.searchsorted(shares, rng.random(), side="right")), len(DETAILS) - 1)
        described = random_scene(rng) if rng.random() < noise else scene
        statement = statement_of(described, rng, DETAILS[level])
        captions[say(statement, rng)] = statement
    return captions
