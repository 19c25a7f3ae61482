"""Finished runs side by side: means over seeds, and paired differences with 95 % intervals. Tested in
tests/reports/test_comparison.py."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from scipy.special import stdtrit

from lavis_mafa.common.artifacts import reading

COMPARED = ("retrieval", "zero_shot", "judgments", "answers", "connections", "plan", "itc_labels", "seconds_per_step")
PLACES = {  # where and with what a run was started, not what it is
    "run.output_dir", "run.seed", "run.resume_ckpt_path", "run.device", "run.num_workers", "run.distributed",
    "run.world_size", "run.rank", "run.gpu", "run.dist_url", "run.dist_backend", "run.token_folder",
}  # fmt: skip


@dataclass(frozen=True)
class FinishedRun:
    """What results.json of a folder says. figures: path of a number → it, as `retrieval / itc / truth / image / r1`."""

    folder: Path
    seed: int
    settings: Mapping[str, object]
    figures: Mapping[str, float]


@dataclass(frozen=True)
class Comparison:
    """settings: names, the first the baseline. table: a row a figure; of every setting its mean and number of seeds,
    of every other than the first the paired difference, half the width of its interval, and whether that leaves out
    zero (`significant`; NaN half and False under two common seeds)."""

    settings: Sequence[str]
    table: pd.DataFrame


def read_run(folder: Path) -> FinishedRun:
    """Raises ValueError: no finished run is there."""
    path = folder / "results.json"
    with reading(path, "results of a finished run"):
        results = json.loads(path.read_text(encoding="utf-8"))
    config = dict(_leaves(results.get("config") or {}, "."))
    settings = {name: value for name, value in config.items() if name not in PLACES}
    found = {name: results[name] for name in COMPARED if name in results}
    figures = {
        name: float(value)
        for name, value in _leaves(found, " / ")
        if isinstance(value, (int, float)) and not isinstance(value, bool)
    }
    seed = config.get("run.seed", 0)
    return FinishedRun(folder, seed if isinstance(seed, int) else 0, settings, figures)


def compared(runs: Sequence[FinishedRun]) -> Comparison:
    """Runs of equal settings are seeds of one; the setting of the first run is the baseline.

    Raises ValueError: fewer than two runs, or two of one setting and seed.
    """
    if len(runs) < 2:
        raise ValueError("give the folders of two or more runs")
    names = _names(runs)
    frames: dict[str, pd.DataFrame] = {}
    for name in dict.fromkeys(names):
        own = [run for run, of in zip(runs, names, strict=True) if of == name]
        seeds = [run.seed for run in own]
        if len(set(seeds)) < len(seeds):
            folders = ", ".join(str(run.folder) for run in own)
            raise ValueError(f"two runs have the same settings and seed: {folders}; give every run once")
        frames[name] = pd.DataFrame([run.figures for run in own], index=seeds)
    baseline, *others = frames
    figures = list(dict.fromkeys(str(figure) for frame in frames.values() for figure in frame))
    rows = [_row(figure, frames, baseline, others) for figure in figures]
    return Comparison(list(frames), pd.DataFrame(rows, index=pd.Index(figures, name="figure")))


def paired_interval(values: pd.Series, baseline: pd.Series) -> tuple[float, float]:
    """Mean and half width of the 95 % t-interval of the differences over the seeds that both have; NaN under two."""
    difference = (values - baseline).dropna()
    n = len(difference)
    half = stdtrit(n - 1, 0.975) * difference.std(ddof=1) / math.sqrt(n) if n > 1 else math.nan
    return float(difference.mean()), float(half)


def _row(
    figure: str, frames: Mapping[str, pd.DataFrame], baseline: str, others: Iterable[str]
) -> dict[tuple[str, str], object]:
    columns = {name: frame[figure] if figure in frame else pd.Series(dtype=float) for name, frame in frames.items()}
    row: dict[tuple[str, str], object] = {}
    for name, values in columns.items():
        row |= {(name, "mean"): values.mean(), (name, "seeds"): int(values.notna().sum())}
    for name in others:
        difference, half = paired_interval(columns[name], columns[baseline])
        row |= {(name, "difference"): difference, (name, "half"): half, (name, "significant"): abs(difference) > half}
    return row


def _names(runs: Sequence[FinishedRun]) -> list[str]:
    """Of every run the settings in which it differs from another; the folder's name where none differs."""
    keys = sorted({key for run in runs for key in run.settings})
    differing = [key for key in keys if len({repr(run.settings.get(key)) for run in runs}) > 1]
    if not differing:
        return ["all runs"] * len(runs)
    return [", ".join(f"{key}={run.settings.get(key)}" for key in differing) for run in runs]


def _leaves(tree: object, joint: str, name: str = "") -> Iterable[tuple[str, object]]:
    if not isinstance(tree, Mapping):
        yield name, tree
        return
    for key, value in tree.items():
        yield from _leaves(value, joint, f"{name}{joint}{key}" if name else str(key))
