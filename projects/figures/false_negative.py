"""The README's picture: a batch of three scenes, and the pair that the annotation gets wrong.

    python projects/figures/false_negative.py docs/images/false_negative.png

Rows are images, columns captions, and every cell shows the packaged Con-D's P(match). The diagonal is annotated; the
scenes' truth function says which of the other pairs match as well.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from textwrap import fill

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch
from numpy.typing import NDArray
from PIL import Image

import lavis_mafa
from lavis_mafa.common.artifacts import atomic_write
from lavis_mafa.data.records import RecordTable
from lavis_mafa.data.scenes.dataset import scenes_table
from lavis_mafa.data.scenes.render import IMAGE_SIZE, render
from lavis_mafa.data.scenes.scene import scene_number, scene_rng
from lavis_mafa.scorers.con_d import build_con_d

SEED, RECORDS = 7, (124, 98, 32)  # scenes whose captions are short, and one of which fits two images
ZOOM = 4  # a scene is drawn that much larger than the networks see it
INK, GREY, BLUE, ORANGE = "#1c1c1c", "#767676", "#0072b2", "#d55e00"
STYLES = {  # (fill, edge, label) of a cell
    "positive": ("#e3eef7", BLUE, "annotated: positive"),
    "negative": ("#f4f4f2", "#d9d9d6", "negative"),
    "false negative": ("#fdeadd", ORANGE, "false negative"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="the PNG file to write")
    out: Path = parser.parse_args().out
    table, _, truth = scenes_table(max(RECORDS) + 1, SEED, captions_a_scene=1)
    records = np.array(RECORDS)
    match_BB, p_BB = truth(records[:, None], records[None, :]), _scores(table)
    assert match_BB.diagonal().all() and match_BB.sum() == len(RECORDS) + 1, "one false negative, and own pairs match"
    figure = _draw([table.caption(record) for record in RECORDS], match_BB, p_BB)
    with atomic_write(out) as file:
        figure.savefig(file, format="png")


def _scores(table: RecordTable) -> NDArray[np.float32]:
    """(B, B) P(match) of every image with every caption."""
    lavis_mafa.register()
    con_d = build_con_d({"arch": "mafa_albef", "model_type": "scenes_con_d"}, torch.device("cpu"))
    B = len(RECORDS)
    batch = {
        "judge_image": torch.stack([con_d.vis_processor(_scene(record).reduce(ZOOM)) for record in RECORDS]),
        "caption": [table.caption(record) for record in RECORDS],
    }
    image_K, text_K = torch.arange(B).repeat_interleave(B), torch.arange(B).repeat(B)
    return con_d.score(batch, image_K, text_K).reshape(B, B).numpy()


def _scene(record: int) -> Image.Image:
    return render(scene_number(SEED, record), scene_rng(SEED, record, 3), ZOOM * IMAGE_SIZE)


def _draw(captions: list[str], match_BB: NDArray[np.bool_], p_BB: NDArray[np.float32]) -> Figure:
    B = len(captions)
    figure = Figure(figsize=(8.3, 4.19), dpi=200, facecolor="white")
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_xlim(-1.15, 2 * B + 0.05)
    axes.set_ylim(B + 0.06, -0.62)  # downwards, as a table is read
    axes.axis("off")
    for row in range(B):
        pixels = np.asarray(_scene(RECORDS[row]))
        axes.imshow(pixels, extent=(-0.98, -0.1, row + 0.94, row + 0.06), aspect="auto")
        axes.text(2 * row + 1, -0.12, fill(f"“{captions[row]}”", 23), ha="center", va="bottom", fontsize=11, color=INK)
        for column in range(B):
            kind = "positive" if row == column else "false negative" if match_BB[row, column] else "negative"
            _cell(axes, row, column, kind, float(p_BB[row, column]))
    return figure


def _cell(axes: Axes, row: int, column: int, kind: str, p: float) -> None:
    colour, edge, label = STYLES[kind]
    loud = kind == "false negative"
    x, y = 2 * column + 0.06, row + 0.06
    box = FancyBboxPatch((x, y), 1.88, 0.88, boxstyle="round,pad=0,rounding_size=0.06", fc=colour, ec=edge)
    box.set_linewidth(2.6 if loud else 1.0)
    axes.add_patch(box)
    weight, ink = ("bold", ORANGE) if loud else ("normal", BLUE if kind == "positive" else GREY)
    axes.text(x + 0.94, row + 0.4, label, ha="center", va="center", fontsize=11, weight=weight, color=ink)
    score = f"P(match) = {p:.2f}" + (": it fits too" if loud else "")
    axes.text(x + 0.94, row + 0.67, score, ha="center", va="center", fontsize=9.5, color=INK if loud else GREY)


if __name__ == "__main__":
    main()
