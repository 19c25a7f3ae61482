"""calibration.png: how often a judge's P(match) holds, before and after its calibration."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from lavis_mafa.common.artifacts import atomic_write

COLOURS = {"as scored": "#d55e00", "calibrated": "#0072b2"}


def draw_reliability(path: Path, curves: Mapping[str, pd.DataFrame], errors: Mapping[str, float]) -> None:
    """A reliability diagram (DeGroot and Fienberg 1983), and below it how many pairs each step has.

    curves: "as scored" and "calibrated", each as core.calibration.reliability gives it; errors: their ECE.
    """
    figure = Figure(figsize=(4.6, 5.0), dpi=130, layout="constrained")
    upper, lower = figure.subplots(2, 1, height_ratios=[3, 1], sharex=True)
    upper.plot([0, 1], [0, 1], color="#999999", linewidth=1, linestyle="--", label="exact")
    for place, (name, steps) in enumerate(curves.items()):
        label = f"{name}, ECE {errors[name]:.1%}"
        upper.plot(steps["p"], steps["matches"], color=COLOURS[name], marker="o", markersize=4, label=label)
        lower.bar(steps["p"] + 0.012 * (place - 0.5), steps["pairs"], width=0.022, color=COLOURS[name], alpha=0.8)
    upper.set_ylabel("pairs that match", fontsize=8)
    upper.yaxis.set_major_formatter(PercentFormatter(1))
    upper.legend(fontsize=8, frameon=False, loc="upper left")
    lower.set_ylabel("pairs", fontsize=8)
    lower.set_xlabel("P(match)", fontsize=8)
    lower.set_xticks(np.linspace(0, 1, 6))
    for axes in (upper, lower):
        axes.tick_params(labelsize=8, length=0)
        axes.grid(color="#e6e6e6", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines[["top", "right", "left"]].set_visible(False)
    with atomic_write(path) as file:
        figure.savefig(file, format="png")
