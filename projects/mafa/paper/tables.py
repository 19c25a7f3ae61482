"""Runs to figures: a frame of all runs, means, and 95 % t-intervals of differences paired by seed."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence

import pandas as pd
from cells import ROOT
from keys import Key
from measures import Item, Measure, Row
from rows import Rows, seconds_of

from lavis_mafa.reports.comparison import paired_interval


def runs_frame(items: Iterable[Item], rows: Rows, options: Sequence[str], seeds: int | None) -> pd.DataFrame:
    """A run of a row a line: item, row, its labels, seed, what it found; a run that two rows share stands twice."""
    lines = []
    for item in items:
        costs = _costs(item)
        for row in item.rows:
            for seed in item.seeds_of(max(item.seeds, seeds or 0)):
                found = rows.newest(row.cell.with_options(*options).with_seed(seed))
                if found:
                    labels = {name: str(value) for name, value in row.labels.items()}  # M is a number or `all`
                    about = {name: found[name] for name in (*Key._fields, "commit", "options")}
                    about["seconds"] = seconds_of(found)
                    on = {"machine": found["versions"]["machine"], "torch": found["versions"]["torch"]}
                    figures = {**found["found"], **costs.get(row.name, {})}
                    lines.append({"item": item.name, "row": row.name, **labels, "seed": seed, **about, **on, **figures})
    return pd.DataFrame(lines)


def _costs(item: Item) -> dict[str, dict[str, float]]:
    """What the setting of a row costs, by the row's name; empty before the benchmark has run."""
    if not item.costs or not (ROOT / item.costs).exists():
        return {}
    settings = json.loads((ROOT / item.costs).read_text())["settings"]
    return {one["setting"]: {f"cost.{name}": one[name] for name in ("times_plain", "plan_s")} for one in settings}


def measured(runs: pd.DataFrame, item: Item, measure: Measure) -> pd.DataFrame:
    """(seed, row) → the measure; a row of the item without a run has no column."""
    own = runs[runs["item"] == item.name]
    figures = own.reindex(columns=list(measure.columns)).astype(float).mean(axis=1, skipna=False) * measure.scale
    return own.assign(figure=figures).pivot_table(index="seed", columns="row", values="figure", dropna=False)


def summary(runs: pd.DataFrame, item: Item) -> pd.DataFrame:
    """A line a row and measure: mean over the seeds, and the paired difference to the row's baseline, ± half."""
    lines = []
    for measure in item.measures:
        figures = measured(runs, item, measure)
        for row in item.rows:
            if row.name in figures and figures[row.name].notna().any():
                lines.append({"row": row.name, "measure": measure.name, **_figures(figures, row, measure)})
    return pd.DataFrame(lines, columns=["row", "measure", "seeds", "mean", "difference", "half"])


def contrasts(runs: pd.DataFrame, item: Item) -> pd.DataFrame:
    """A line a contrast of the item and measure: the paired difference of its two rows, ± half."""
    lines = []
    for measure in (measure for measure in item.measures if measure.each_seed):
        figures = measured(runs, item, measure)
        for one, other in item.contrasts:
            if {one, other} <= set(figures) and figures[[one, other]].notna().all(axis=1).any():
                difference, half = paired_interval(figures[one], figures[other])
                found = {"difference": difference, "half": half}
                lines.append({"contrast": f"{one} − {other}", "measure": measure.name, **found})
    return pd.DataFrame(lines, columns=["contrast", "measure", "difference", "half"])


def _figures(figures: pd.DataFrame, row: Row, measure: Measure) -> dict[str, float]:
    values = figures[row.name]
    found: dict[str, float] = {"seeds": int(values.notna().sum()), "mean": float(values.mean())}
    if row.against in figures and measure.each_seed:
        found["difference"], found["half"] = paired_interval(values, figures[row.against])
    return found


def markdown(found: pd.DataFrame, item: Item) -> str:
    """The item's table: every figure a mean, in brackets the difference to the row's baseline and its interval."""
    measures = [measure.name for measure in item.measures if measure.name in set(found["measure"])]
    by_place = found.set_index(["row", "measure"])
    header = [*item.rows[0].labels, "seeds", *measures]
    lines = [header, ["---"] * len(item.rows[0].labels) + ["---:"] * (len(measures) + 1)]
    for row in item.rows:
        own = found[found["row"] == row.name]
        if len(own):
            seeds = int(own["seeds"].max())
            cells = [
                _cell(by_place.loc[(row.name, name)], seeds) if (row.name, name) in by_place.index else "-"
                for name in measures
            ]
            lines.append([*map(str, row.labels.values()), str(seeds), *cells])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def contrasts_markdown(found: pd.DataFrame) -> str:
    """A line a contrast, a column a measure."""
    measures = found["measure"].drop_duplicates().tolist()
    lines = [["difference of rows", *measures], ["---", *["---:"] * len(measures)]]
    for name, own in found.groupby("contrast", sort=False):
        cells = {str(line["measure"]): _difference(line["difference"], line["half"]) for _, line in own.iterrows()}
        lines.append([str(name), *(cells.get(measure, "-") for measure in measures)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(figure: pd.Series, seeds: int) -> str:
    """Says of how many seeds the mean is where some have no such figure: no connection has no precision."""
    text = f"{figure['mean']:.2f}" + (f" of {figure['seeds']:.0f}" if figure["seeds"] < seeds else "")
    if not math.isnan(figure["difference"]):
        text += f" ({_difference(figure['difference'], figure['half'])})"
    return text


def _difference(mean: float, half: float) -> str:
    """Bold where the interval leaves zero out."""
    text = f"{round(mean, 2) + 0.0:+.2f} ± {'?' if math.isnan(half) else f'{half:.2f}'}"  # + 0.0: no -0.00
    return f"**{text}**" if abs(mean) > half else text
