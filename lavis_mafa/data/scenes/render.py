"""Drawing scenes: antialiased shapes with a dark outline, jittered in place, scale, turn and colour."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from lavis_mafa.data.scenes.scene import GRID, PATTERNS, Scene, SceneObject, pick

IMAGE_SIZE = 48  # pixels a side
RGB = (  # in the order of COLOURS
    (222, 40, 40),
    (247, 137, 20),
    (250, 222, 45),
    (48, 168, 62),
    (60, 215, 225),
    (42, 84, 222),
    (132, 52, 178),
    (250, 130, 190),
)
BACKDROPS = (  # in the order of TONES: low saturation, so that no object drowns
    ((38, 40, 46), (52, 44, 40), (34, 46, 58), (46, 38, 54)),
    ((226, 226, 222), (232, 222, 204), (208, 220, 232), (216, 228, 210)),
)
RADIUS = (0.29, 0.47)  # small, big; in cells
OUTLINE = 0.05  # in cells
REACH = 0.68  # in cells: no point of an outlined shape lies further from its centre
SUPERSAMPLING = 4


def render(scene: Scene, rng: np.random.Generator, size: int = IMAGE_SIZE) -> Image.Image:
    """The scene as an RGB image of (size, size) pixels; `rng` draws the jitter, so one scene has many images."""
    image = _background(scene, rng, size)
    for thing in scene.objects:
        _draw(image, thing, rng)
    return image


def _background(scene: Scene, rng: np.random.Generator, size: int) -> Image.Image:
    base = np.array(pick(rng, BACKDROPS[scene.tone]), dtype=np.float32) + 8 * (rng.random(3) - 0.5)
    swing = (28.0, -44.0)[scene.tone]  # towards the middle of the scale: dark stays dark, light stays light
    weight = _pattern(PATTERNS[scene.pattern], rng, size)  # (size, size) in 0..1
    pixels = base + swing * weight[..., None]
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def _pattern(name: str, rng: np.random.Generator, size: int) -> NDArray[np.floating]:
    """(size, size) weights between the backdrop's two shades."""
    if name == "plain":
        return np.zeros((size, size), dtype=np.float32)
    if name == "speckled":
        return (rng.random((size, size)) > 0.7).astype(np.float32)
    angle = 2 * math.pi * rng.random()
    ramp = np.linspace(-0.5, 0.5, size, dtype=np.float32)
    along = math.cos(angle) * ramp + math.sin(angle) * ramp[:, None]
    if name == "shaded":
        return 0.5 + 1.2 * along
    waves = 6.0 + 2.0 * rng.random()
    stripes: NDArray[np.floating] = np.clip(0.5 + 2.0 * np.sin(2 * math.pi * (waves * along + rng.random())), 0, 1)
    return stripes


def _draw(image: Image.Image, thing: SceneObject, rng: np.random.Generator) -> None:
    cell = image.width / GRID
    scale, turn, across, down = rng.random(4) - 0.5
    radius = cell * RADIUS[thing.size] * (1 + 0.12 * scale)
    x = cell * (thing.column + 0.5 + 0.1 * across)
    y = cell * (thing.row + 0.5 + 0.1 * down)
    corner = (math.floor(x - REACH * cell), math.floor(y - REACH * cell))
    centre = ((x - corner[0]) * SUPERSAMPLING, (y - corner[1]) * SUPERSAMPLING)
    tile = (math.ceil(2 * REACH * cell) + 1) * SUPERSAMPLING
    light, *tint = rng.random(4) - 0.5
    colour = [channel * (1 + 0.14 * light) + 14 * t for channel, t in zip(RGB[thing.colour], tint, strict=True)]
    for share, grow in ((0.45, OUTLINE * cell), (1.0, 0.0)):  # the outline first, the shape upon it
        mask = _mask(thing.shape, tile, centre, radius * SUPERSAMPLING, grow * SUPERSAMPLING, 0.5 * turn)
        shade = tuple(int(min(255.0, max(0.0, share * channel))) for channel in colour)
        image.paste(shade, corner, mask.reduce(SUPERSAMPLING))


def _mask(shape: int, tile: int, centre: tuple[float, float], radius: float, grow: float, turn: float) -> Image.Image:
    """Coverage of one shape, grown by `grow` pixels on all sides, on a square tile at the supersampled scale."""
    mask = Image.new("L", (tile, tile))
    pen = ImageDraw.Draw(mask)
    outline = _OUTLINES[shape]
    if outline is None:  # circle and ring
        pen.ellipse(_box(centre, 0.94 * radius + grow), fill=255)
        if shape != 0:
            pen.ellipse(_box(centre, 0.5 * radius - grow), fill=0)
        return mask
    cosine, sine = radius * math.cos(turn), radius * math.sin(turn)
    points = [(centre[0] + cosine * u - sine * v, centre[1] + sine * u + cosine * v) for u, v in outline]
    pen.polygon(points, fill=255)
    if grow:
        pen.line([*points, *points[:2]], fill=255, width=round(2 * grow), joint="curve")
    return mask


def _box(centre: tuple[float, float], radius: float) -> tuple[float, float, float, float]:
    return (centre[0] - radius, centre[1] - radius, centre[0] + radius, centre[1] + radius)


def _star(points: int, inner: float) -> list[tuple[float, float]]:
    angles = [math.pi * k / points for k in range(2 * points)]
    lengths = [1.1 if k % 2 == 0 else inner for k in range(2 * points)]
    return [(r * math.sin(a), -r * math.cos(a)) for a, r in zip(angles, lengths, strict=True)]


def _cross(arm: float) -> list[tuple[float, float]]:
    quarter = [(arm, -1.0), (arm, -arm), (1.0, -arm), (1.0, arm)]
    turns = [quarter, [(-v, u) for u, v in quarter], [(-u, -v) for u, v in quarter], [(v, -u) for u, v in quarter]]
    return [point for points in turns for point in points[:3]]


_OUTLINES: tuple[list[tuple[float, float]] | None, ...] = (  # in the order of SHAPES, in radii, y downwards
    None,
    [(-0.82, -0.82), (0.82, -0.82), (0.82, 0.82), (-0.82, 0.82)],
    [(0.0, -0.95), (0.98, 0.8), (-0.98, 0.8)],
    _star(5, 0.45),
    _cross(0.34),
    None,
)
