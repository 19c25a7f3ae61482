"""mining.png: the matching network's scores of the candidates."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from numpy.typing import NDArray

from lavis_mafa.common.artifacts import atomic_write

BLUE, ORANGE, GREEN, GREY = "#0072b2", "#d55e00", "#009e73", "#999999"
BINS = 50


def draw_mining(
    path: Path,
    p_K: NDArray[np.float32],
    bounds: tuple[float, float],
    connections_N: NDArray[np.int64],
    curve: pd.DataFrame | None,
) -> None:
    """Histogram of P(match) with both bounds, connections per image, precision and recall where `curve` knows them.

    connections_N: connections of every image. curve: threshold, precision, recall (mining.review.precision_recall).
    """
    panels = 2 if curve is None or curve.empty else 3
    figure = Figure(figsize=(4.8 * panels, 3.6), dpi=130, layout="constrained")
    axes = figure.subplots(1, panels)
    _histogram(axes[0], p_K, bounds)
    _per_image(axes[1], connections_N)
    if curve is not None and panels == 3:
        _thresholds(axes[2], curve, bounds)
    for each in axes:
        each.tick_params(labelsize=8, length=0)
        each.grid(color="#e6e6e6", linewidth=0.8)
        each.set_axisbelow(True)
        each.spines[["top", "right", "left"]].set_visible(False)
    with atomic_write(path) as file:
        figure.savefig(file, format="png")


def _histogram(axes: Axes, p_K: NDArray[np.float32], bounds: tuple[float, float]) -> None:
    counts, edges = np.histogram(p_K, BINS, (0, 1))
    axes.stairs(counts, edges, fill=True, color=BLUE, alpha=0.75)
    axes.set_yscale("symlog", linthresh=10)  # most candidates are plain negatives
    axes.set_ylim(bottom=0)
    _title(axes, "Candidates by P(match)", "P(match)")
    _mark(axes, bounds)


def _per_image(axes: Axes, connections_N: NDArray[np.int64]) -> None:
    counts = np.bincount(connections_N)
    axes.bar(np.arange(len(counts)), counts, color=GREEN, alpha=0.85)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    mean = connections_N.mean() if len(connections_N) else 0.0
    _title(axes, f"Images by connections (mean {mean:.2f})", "connections of an image")


def _thresholds(axes: Axes, curve: pd.DataFrame, bounds: tuple[float, float]) -> None:
    for column, colour in (("precision", BLUE), ("recall", ORANGE)):
        axes.plot(curve["threshold"], curve[column], color=colour, linewidth=1.8, label=column)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.02)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    _title(axes, "Connections above a threshold", "threshold of P(match)")
    _mark(axes, bounds)
    axes.legend(fontsize=8, frameon=False)


def _mark(axes: Axes, bounds: tuple[float, float]) -> None:
    for bound in bounds:
        axes.axvline(bound, color=GREY, linestyle="--", linewidth=1)


def _title(axes: Axes, title: str, label: str) -> None:
    axes.set_title(title, loc="left", fontsize=10, fontweight="bold")
    axes.set_xlabel(label, fontsize=8)
