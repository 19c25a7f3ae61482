"""The pictures of docs/concepts.md: GRIT, ECM, S-ITC and a judge, drawn from scenes and the packaged Con-D.

    python projects/figures/concepts.py docs/images        # 10 s; writes grit.png, ecm.png, s_itc.png, judge.png

White cards, so that they read on a light and on a dark page. All figures in them are computed, by the functions that
training calls; the scenes' truth function says which pairs match.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from textwrap import fill, shorten

import numpy as np
import torch
from false_negative import BLUE, GREY, INK, ORANGE, ZOOM
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray
from PIL import Image

import lavis_mafa
from lavis_mafa.common.artifacts import atomic_write
from lavis_mafa.core.chain import Chainer
from lavis_mafa.core.losses import managed_itc_targets
from lavis_mafa.core.pairs import SettledPairs, hardest_pairs, own_positives
from lavis_mafa.data.records import RecordTable
from lavis_mafa.data.scenes.dataset import Ints, scenes_table
from lavis_mafa.data.scenes.render import IMAGE_SIZE, render
from lavis_mafa.data.scenes.scene import scene_number, scene_rng
from lavis_mafa.scorers.con_d import ItmScorer, build_con_d
from lavis_mafa.scorers.embedders import embed_images, embed_texts

SEED, N, BATCH, SHOWN = 11, 640, 64, 7
LOW, HIGH = 0.5, 0.8  # the paper's bounds
PALE = {BLUE: "#e3eef7", ORANGE: "#fdeadd", GREY: "#f4f4f2"}


@dataclass(frozen=True)
class Scenes:
    """Scenes with one caption each, and what Con-D makes of them."""

    table: RecordTable
    truth: Callable[[Ints, Ints], NDArray[np.bool_]]
    con_d: ItmScorer
    images_N: torch.Tensor
    image_ND: NDArray[np.float32]
    text_ND: NDArray[np.float32]

    def p(self, image_K: NDArray[np.int64], text_K: NDArray[np.int64]) -> NDArray[np.float32]:
        """(K,) P(match) of images with captions, by their numbers."""
        parts = []
        for at in np.array_split(np.arange(len(image_K)), max(1, len(image_K) // 256)):
            captions = [self.table.caption(int(text)) for text in text_K[at]]
            batch = {"judge_image": self.images_N[image_K[at]], "caption": captions}
            place = torch.arange(len(at))
            parts.append(self.con_d.score(batch, place, place).numpy())
        return np.concatenate(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the PNG files go")
    folder: Path = parser.parse_args().folder
    scenes = _scenes()
    hard = _hard_pairs(scenes)
    drawn = {"grit": _grit(scenes), "ecm": _ecm(scenes, *hard), "s_itc": _s_itc(), "judge": _judge(scenes, *hard)}
    folder.mkdir(parents=True, exist_ok=True)
    for name, figure in drawn.items():
        with atomic_write(folder / f"{name}.png") as file:
            figure.savefig(file, format="png", dpi=130)


def _scenes() -> Scenes:
    lavis_mafa.register()
    con_d = build_con_d({"arch": "mafa_albef", "model_type": "scenes_con_d"}, torch.device("cpu"))
    table, open_image, truth = scenes_table(N, SEED, match_share=0.02, captions_a_scene=1)
    images_N = torch.stack([con_d.vis_processor(open_image(record)) for record in range(N)])
    captions = [con_d.text_processor(table.caption(record)) for record in range(N)]
    image_ND = torch.cat([embed_images(con_d.model, {"image": part})[:, 0] for part in images_N.split(BATCH)])
    return Scenes(table, truth, con_d, images_N, image_ND.numpy(), embed_texts(con_d.model, captions).numpy())


def _hard_pairs(scenes: Scenes) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    """(image, caption, P(match)) of the hardest pairs of GRIT's batches, as ECM looks them up."""
    order = Chainer().chain(scenes.image_ND, scenes.text_ND, 0)
    found = []
    for batch in order.reshape(-1, BATCH):
        sim_BB = torch.from_numpy(scenes.image_ND[batch] @ scenes.text_ND[batch].T)
        pairs = hardest_pairs(sim_BB, sim_BB.T, own_positives(BATCH, BATCH))
        found.append(np.stack([batch[pairs.image_C.numpy()], batch[pairs.text_C.numpy()]]))
    image_C, text_C = np.unique(np.concatenate(found, axis=1), axis=1)
    return image_C, text_C, scenes.p(image_C, text_C)


def _grit(scenes: Scenes) -> Figure:
    """Seven records of a random batch and of a GRIT batch, and which of their pairs match."""
    order = Chainer().chain(scenes.image_ND, scenes.text_ND, 0).reshape(-1, BATCH)
    by_matches = sorted((batch[:SHOWN] for batch in order), key=lambda each: scenes.truth(each[:, None], each).sum())
    chained = by_matches[len(by_matches) // 2]  # neither the best nor the worst of the batches
    rows = {
        "A random batch": np.random.default_rng(SEED).permutation(N)[:SHOWN],
        "A GRIT batch: each record is followed by its most similar unused one": chained,
    }
    figure = Figure(figsize=(9.6, 4.6), facecolor="white")
    for place, (title, records) in enumerate(rows.items()):
        top = 0.94 - 0.5 * place
        figure.text(0.012, top, title, fontsize=11, weight="bold", color=INK, va="center")
        for column, record in enumerate(records):
            _card(figure, scenes, (0.012 + 0.106 * column, top - 0.245), int(record), int(record))
        _matches(figure.add_axes((0.78, top - 0.395, 0.19, 0.37)), scenes.truth(records[:, None], records))
    return figure


def _matches(axes: Axes, match_BB: NDArray[np.bool_]) -> None:
    """Images down, captions across: annotated pairs blue, false negatives orange."""
    B = len(match_BB)
    for row, column in np.ndindex(B, B):
        colour = BLUE if row == column else ORANGE if match_BB[row, column] else PALE[GREY]
        axes.add_patch(Rectangle((column + 0.06, row + 0.06), 0.88, 0.88, fc=colour))
    false = int(match_BB.sum()) - B
    axes.set(xlim=(0, B), ylim=(B, 0), aspect="equal", xticks=[], yticks=[])
    axes.set_xlabel("captions", fontsize=8, color=GREY, labelpad=3)
    axes.set_ylabel("images", fontsize=8, color=GREY, labelpad=3)
    axes.set_title(f"{false or 'no'} false negative{'s' if false != 1 else ''}", fontsize=9, color=ORANGE, pad=4)
    axes.spines[:].set_visible(False)


def _ecm(scenes: Scenes, image_C: NDArray[np.int64], text_C: NDArray[np.int64], p_C: NDArray[np.float32]) -> Figure:
    """Six hard pairs on the axis of P(match), with what becomes of them."""
    figure = Figure(figsize=(9.6, 3.7), facecolor="white")
    axes = figure.add_axes((0.03, 0.13, 0.94, 0.26))
    zones = ((0, LOW, GREY, "negative"), (LOW, HIGH, GREY, "ambiguous: left out"), (HIGH, 1, ORANGE, "connection"))
    for low, high, colour, label in zones:
        axes.axvspan(low, high, color=PALE[colour] if label[0] != "a" else "white", zorder=0)
        axes.text((low + high) / 2, 0.2, label, ha="center", fontsize=11, weight="bold", color=colour)
    axes.set(xlim=(0, 1), ylim=(0, 1), yticks=[], xticks=[0, LOW, HIGH, 1])
    axes.set_xlabel("P(match) by the judge", fontsize=10, color=INK, labelpad=2)
    axes.spines[["left", "right", "top"]].set_visible(False)
    wanted = (0.02, 0.3, 0.56, 0.72, 0.88, 0.98)
    for column, p in enumerate(wanted):
        chosen = int(np.abs(p_C - p).argmin())
        left = 0.03 + 0.162 * column
        _card(figure, scenes, (left, 0.66), int(image_C[chosen]), int(text_C[chosen]), size=0.12, letters=22)
        foot = (left + 0.06 - 0.03) / 0.94
        axes.plot([foot, p_C[chosen]], [1.3, 0.62], color=GREY, linewidth=0.8, clip_on=False)
        axes.plot(p_C[chosen], 0.6, "o", color=INK, markersize=5)
    return figure


def _card(
    figure: Figure,
    scenes: Scenes,
    at: tuple[float, float],
    image: int,
    text: int,
    size: float = 0.092,
    letters: int = 15,
) -> None:
    """An image with a caption below it; at: the lower left corner of the image, in shares of the figure."""
    width, height = figure.get_size_inches()
    axes = figure.add_axes((*at, size, size * width / height))
    axes.imshow(np.asarray(_large(image)))
    axes.axis("off")
    caption = fill(shorten(scenes.table.caption(text), 68, placeholder=" …"), letters)
    figure.text(at[0] + size / 2, at[1] - 0.015, caption, fontsize=7.5, color=INK, ha="center", va="top")


def _large(record: int) -> Image.Image:
    return render(scene_number(SEED, record), scene_rng(SEED, record, 3), ZOOM * IMAGE_SIZE)


def _s_itc() -> Figure:
    """The targets of six captions: annotated alone, with a connection, and smoothed."""
    B, none = 6, torch.empty(0, dtype=torch.long)
    own_BB = own_positives(B, B)
    nothing = SettledPairs(none, none, none, none.bool())
    one = SettledPairs(torch.tensor([4]), torch.tensor([1]), torch.tensor([1]), torch.tensor([True]))
    panels = (("annotated pairs alone", nothing, 0.0), ("+ a connection", one, 0.0), ("+ S-ITC, alpha = 0.5", one, 0.5))
    figure = Figure(figsize=(9.6, 3.5), facecolor="white", layout="constrained")
    for axes, (title, settled, alpha) in zip(figure.subplots(1, 3), panels, strict=True):
        target_BB = managed_itc_targets(settled, own_BB, 0, alpha=alpha, label_smoothing=0.0)[1].numpy()
        axes.imshow(target_BB, cmap="Blues", vmin=0, vmax=1.9)
        for (row, column), value in np.ndenumerate(target_BB):
            if value > 0:
                connected = (row, column) == (1, 4) and len(settled.image_K)
                weight, colour = ("bold", ORANGE) if connected else ("normal", INK)
                axes.text(
                    column, row, f"{value:.2f}", ha="center", va="center", fontsize=8, weight=weight, color=colour
                )
        axes.set_title(title, fontsize=10, weight="bold", color=INK)
        axes.set(xticks=[], yticks=[])
        axes.set_xlabel("images of the batch", fontsize=8, color=GREY)
        axes.set_ylabel("captions", fontsize=8, color=GREY)
        axes.spines[:].set_color("#d9d9d6")
    return figure


def _judge(scenes: Scenes, image_C: NDArray[np.int64], text_C: NDArray[np.int64], p_C: NDArray[np.float32]) -> Figure:
    """P(match) of hard pairs, those that match and those that do not."""
    match_C = scenes.truth(image_C, text_C)
    found = int((match_C & (p_C > HIGH)).sum()), int((p_C > HIGH).sum()), int(match_C.sum())
    figure = Figure(figsize=(9.6, 3.2), facecolor="white", layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, sharey=True)
    for axes, kind, colour, label in (
        (above, match_C, ORANGE, "match: false negatives"),
        (below, ~match_C, GREY, "do not match"),
    ):
        axes.hist(p_C[kind], np.linspace(0, 1, 41), color=colour)
        axes.text(
            0.25, 0.7, f"{int(kind.sum())} {label}", transform=axes.transAxes, fontsize=10, color=colour, ha="center"
        )
        for bound in (LOW, HIGH):
            axes.axvline(bound, color=INK, linewidth=1, linestyle="--")
        axes.set(yscale="log", ylabel="pairs", xlim=(0, 1), xticks=[0, LOW, HIGH, 1])
        axes.spines[["right", "top"]].set_visible(False)
    below.set_xlabel("P(match) of hard pairs by the packaged Con-D", fontsize=10)
    above.set_title(
        f"Above 0.8: {found[1]} connections, of which {found[0]} match (precision {found[0] / found[1]:.0%}, "
        f"recall {found[0] / found[2]:.0%})",
        fontsize=10,
        loc="left",
        color=INK,
    )
    return figure


if __name__ == "__main__":
    main()
