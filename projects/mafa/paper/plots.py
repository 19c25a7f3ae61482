"""A picture an item: means, with the paired interval to the row's baseline as their bar."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from measures import Item

from lavis_mafa.common.artifacts import atomic_write
from lavis_mafa.reports.curves import COLOURS

NOTE = "bars: 95 % interval of the difference to the baseline, paired by seed"


def draw(found: pd.DataFrame, item: Item, path: Path) -> None:
    """found: tables.summary's lines. A PNG: lines over `item.x` where the item has one, else a panel a measure."""
    figure = (_lines if item.x else _dots)(found, item)
    figure.suptitle(item.title, x=0.01, ha="left", fontsize=11, fontweight="bold")
    figure.supxlabel(NOTE, fontsize=8, color="#666666")
    with atomic_write(path) as file:
        figure.savefig(file, format="png")


def _dots(found: pd.DataFrame, item: Item) -> Figure:
    names = [row.name for row in item.rows if row.name in set(found["row"])]
    baselines = {row.against for row in item.rows}
    measures = found["measure"].drop_duplicates().tolist()
    figure = Figure(figsize=(2.4 + 2.4 * len(measures), 1.2 + 0.28 * len(names)), dpi=130, layout="constrained")
    for place, axes in enumerate(figure.subplots(1, len(measures), sharey=True, squeeze=False)[0]):
        own = found[found["measure"] == measures[place]].set_index("row").reindex(names)
        heights = range(len(names) - 1, -1, -1)
        colours = [COLOURS[0] if name in baselines else COLOURS[1] for name in names]
        axes.errorbar(own["mean"], heights, xerr=own["half"].fillna(0), fmt="none", ecolor="#999999", capsize=2)
        axes.scatter(own["mean"], heights, c=colours, s=22, zorder=3)
        axes.set_yticks(heights, names, fontsize=8)
        _finish(axes, measures[place], grid="both")
    return figure


def _lines(found: pd.DataFrame, item: Item) -> Figure:
    labels = pd.DataFrame([{"row": row.name, **row.labels} for row in item.rows])
    colours = dict(zip(labels[item.line].drop_duplicates(), COLOURS, strict=False))
    found = found.merge(labels, on="row")
    panels, measures = found[item.panel].drop_duplicates().tolist(), found["measure"].drop_duplicates().tolist()
    size = (2 + 2.8 * len(panels), 1 + 2 * len(measures))
    figure = Figure(figsize=size, dpi=130, layout="constrained")
    grid = figure.subplots(len(measures), len(panels), sharex=True, sharey="row", squeeze=False)
    for axes_row, measure in zip(grid, measures, strict=True):
        for axes, panel in zip(axes_row, panels, strict=True):
            _panel(axes, found[(found["measure"] == measure) & (found[item.panel] == panel)], item, colours)
            _finish(axes, f"{item.panel} {panel}: {measure}", grid="y")
    grid[0][-1].legend(fontsize=7, frameon=False)
    for axes in grid[-1]:
        axes.set_xlabel(item.x, fontsize=8)
    return figure


def _panel(axes: Axes, found: pd.DataFrame, item: Item, colours: dict[str, str]) -> None:
    """A line a method over x; a method at x = "-" knows no x, and is level and dashed."""
    sizes = sorted({int(row.labels[item.x]) for row in item.rows if row.labels[item.x] != "-"})
    for name, line in found.groupby(item.line, sort=False):
        colour = colours[name]
        if (line[item.x] == "-").all():
            axes.axhline(line["mean"].iloc[0], color=colour, linestyle="--", linewidth=1.2, label=name)
            continue
        line = line.astype({item.x: int}).sort_values(item.x)
        bars = {"yerr": line["half"].fillna(0), "capsize": 2}
        axes.errorbar(line[item.x], line["mean"], **bars, fmt="o-", color=colour, markersize=4, label=name)
    axes.set_xscale("log", base=2)
    axes.set_xticks(sizes, [str(size) for size in sizes], fontsize=8)
    axes.minorticks_off()


def _finish(axes: Axes, title: str, grid: str) -> None:
    axes.set_title(title, loc="left", fontsize=8)
    axes.tick_params(labelsize=8, length=0)
    axes.grid(axis=grid, color="#e6e6e6", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
