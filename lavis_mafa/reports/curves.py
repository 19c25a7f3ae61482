"""curves.png: what happened in a training run, a few panels over the epochs."""

import math
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from lavis_mafa.common.artifacts import atomic_write

COLOURS = (
    "#0072b2",
    "#d55e00",
    "#009e73",
    "#cc79a7",
    "#e69f00",
    "#56b4e9",
    "#000000",
)  # Okabe and Ito: safe for colour-blind readers
WINDOWS_PER_EPOCH = 12  # a smoothed point is the mean over this part of its epoch
COLUMNS = 3
FEW = 20


@dataclass(frozen=True)
class Panel:
    """One plot: `lines` are column -> label of the frame `of`; `percent` marks shares between 0 and 1."""

    title: str
    of: str  # "steps" or "epochs"
    lines: dict[str, str]
    percent: bool = False


STEP_PANELS = (
    Panel("Losses", "steps", {"loss": "sum", "loss_itc": "ITC", "loss_itm": "ITM", "loss_lm": "LM", "loss_mlm": "MLM"}),
    Panel("Matching head", "steps", {"itm_accuracy": "balanced accuracy (chance: 50%)"}, percent=True),
    # Not the negatives: they are the rest of the hardest pairs, and many enough to flatten these two.
    Panel("Connections per batch", "steps", {"connections": "connections", "ambiguous": "ambiguous pairs"}),
    Panel(
        "False negatives (true matches)",
        "steps",
        {"false_negative_rate": "among all pairs of a batch", "itm_false_negative_rate": "among ITM negatives"},
        percent=True,
    ),
)
TRUTH_PANEL = Panel(
    "Connections against the truth",
    "epochs",
    {"connection_precision": "precision", "connection_recall": "recall"},
    percent=True,
)
SPEED_PANEL = Panel("Seconds per step", "steps", {"s_it": "in all", "s_data": "waiting for data"})


def draw_curves(steps: pd.DataFrame, epochs: pd.DataFrame, path: str | Path) -> None:
    """Draws the curves of a run into a PNG; panels without a single known value are left out.

    Args:
        steps: one row per training step, in order: `epoch`, and any of `loss`, `loss_itc`, `loss_itm`, `loss_lm`,
            `loss_mlm`, `itm_accuracy` (balanced, a share), `connections`, `ambiguous` (counts), `false_negative_rate`,
            `itm_false_negative_rate` (shares; NaN where the truth is not known), `s_it` (seconds), `data_share`.
        epochs: one row per epoch: `epoch`, and any of `sampling`, `connection_precision`, `connection_recall` (shares),
            `val_*` (recall in percent).

    Raises:
        ValueError: there is nothing to draw.
    """
    frames = {"steps": _with_time(steps), "epochs": epochs.assign(time=epochs["epoch"] + 1.0)}
    candidates = (*STEP_PANELS, TRUTH_PANEL, _validation(epochs), SPEED_PANEL)
    panels = [panel for panel in candidates if _known(panel, frames[panel.of])]
    if not panels:
        raise ValueError("nothing to draw: no step was logged yet; train for at least one step")
    columns = min(COLUMNS, len(panels))
    rows = math.ceil(len(panels) / columns)
    figure = Figure(figsize=(4.6 * columns, 3.2 * rows), dpi=130, layout="constrained")
    random = _random_epochs(epochs)
    for place, panel in enumerate(panels, start=1):
        axes = figure.add_subplot(rows, columns, place)
        _draw(axes, panel, frames[panel.of])
        for epoch in random:
            axes.axvspan(epoch, epoch + 1, color="#f2f2f2", zorder=0, linewidth=0)
    if random:
        figure.supxlabel("grey: epochs of random batches", fontsize=8, color="#666666")
    with atomic_write(Path(path)) as file:
        figure.savefig(file, format="png")


def _with_time(steps: pd.DataFrame) -> pd.DataFrame:
    """Adds `time`, a step's end in epochs (rows are counted: `step` may start over each epoch), and `s_data`."""
    by_epoch = steps.groupby("epoch")["epoch"]
    longest = by_epoch.transform("size").max()  # an epoch that was cut short ends early on the axis, too
    steps = steps.assign(time=steps["epoch"] + (by_epoch.cumcount() + 1) / longest)
    return steps.assign(s_data=steps["s_it"] * steps["data_share"]) if {"s_it", "data_share"} <= set(steps) else steps


def _validation(epochs: pd.DataFrame) -> Panel:
    """Recall by ITC, all that is validated every epoch; `val_image_r1` is drawn as "image R@1"."""
    names = [str(name) for name in epochs.columns if str(name).startswith("val_")]
    return Panel("Validation recall by ITC, in %", "epochs", {name: _recall(name[4:]) for name in names})


def _recall(name: str) -> str:
    return re.sub(r"\br(\d+)$", r"R@\1", name.replace("_", " ")).replace("r mean", "mean of these")


def _known(panel: Panel, frame: pd.DataFrame) -> dict[str, str]:
    """The lines of a panel that have a value in the frame."""
    return {name: label for name, label in panel.lines.items() if name in frame and frame[name].notna().any()}


def _draw(axes: Axes, panel: Panel, frame: pd.DataFrame) -> None:
    lines = _known(panel, frame)
    dots = ".-" if len(frame) < FEW else "-"  # a single step makes no line
    for (name, label), colour in zip(lines.items(), colours(len(lines)), strict=True):
        values = frame[name].astype(float)
        if panel.of == "steps":
            axes.plot(frame["time"], values, color=colour, alpha=0.15, linewidth=0.7)
            smooth = _smoothed(values, frame["epoch"])
            axes.plot(frame["time"], smooth, dots, color=colour, linewidth=1.8, label=label)
        else:
            dashes = "o--" if "text R@" in label else "o-"  # the two directions apart, in grey print as well
            axes.plot(frame["time"], values, dashes, color=colour, markersize=4, linewidth=1.8, label=label)
    axes.set_title(panel.title, loc="left", fontsize=10, fontweight="bold")
    axes.set_xlabel("epochs", fontsize=8)
    axes.set_ylim(bottom=0, top=1.02 if panel.percent and panel.of == "epochs" else None)
    axes.set_xlim(left=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if panel.percent:
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.tick_params(labelsize=8, length=0)
    axes.grid(color="#e6e6e6", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.legend(fontsize=8, frameon=False)


def colours(number: int) -> list[str]:
    """As many colours, no two the same."""
    if number <= len(COLOURS):
        return list(COLOURS[:number])
    return [to_hex(colour) for colour in colormaps["turbo"](np.linspace(0.02, 0.95, number))]


def _smoothed(values: pd.Series, epoch: pd.Series) -> pd.Series:
    """Running mean inside each epoch: the jump from random to grouped batches stays a jump."""
    window = max(1, int(epoch.value_counts().max()) // WINDOWS_PER_EPOCH)
    return values.groupby(epoch).transform(lambda part: part.rolling(window, center=True, min_periods=1).mean())


def _random_epochs(epochs: pd.DataFrame) -> list[int]:
    return epochs.loc[epochs["sampling"] == "random", "epoch"].tolist() if "sampling" in epochs else []
