"""The table a run ends with, and the JSON file that holds the same figures."""

import math
from collections.abc import Iterable, Mapping, Sequence
from numbers import Real
from pathlib import Path

import numpy as np
import pandas as pd

from lavis_mafa.common.artifacts import atomic_write, json_bytes
from lavis_mafa.common.tree import Keys, at, keys_at

RANKINGS = {"itc": "by ITC", "itm": "re-ranked by ITM"}
RECALLS = {"r1": "R@1", "r5": "R@5", "r10": "R@10"}
AT_R = {"r_precision": "R-P", "map_at_r": "mAP@R"}
SCORERS = {"itc": "ITC", "itm": "ITM", "con_d": "Con-D"}
JUDGED = {
    "all": "false vs hard true negatives",
    "unanimous": "  where all votes agree",
    "any_kind": "every match vs every mismatch",
    "any_kind_unanimous": "  where all votes agree",
}
PLAN = {
    "distinct_images_per_batch": ("distinct images per batch", 1, ""),
    "false_negatives_per_batch": ("false negatives per batch", 1, ""),
    "itm_false_negative_rate": ("false negatives among ITM negatives", 100, " %"),
}
Row = tuple[str, list[str]]  # a name and its figures


def results_table(results: Keys) -> str:
    """The results as text. Any part, and any figure of a part, may be missing or None; it then shows as "-".

    results: `retrieval` {itc | itm: {annotation | truth | test_set: {image | text: {r1, r5, r10: percent}}},
            at_r: the same with {r_precision, map_at_r}, eccv: {itc | itm: {metric: {image | text: percent}}}},
        `zero_shot` {top1, top5: percent; images, classes: counts},
        `judgments` {all | unanimous | any_kind | any_kind_unanimous: {itc | itm | con_d: {auc, ap; pairs: count}}},
        `connections` {pairs_scored, connections: counts; precision, recall, coverage: shares},
        `plan` {sampling; distinct_images_per_batch, false_negatives_per_batch; itm_false_negative_rate: share}.
    """
    parts = (
        _against("Retrieval, in %", keys_at(results, "retrieval"), RECALLS),
        _against("Several matches, in %", keys_at(results, "retrieval", "at_r"), AT_R),
        _eccv(keys_at(results, "retrieval", "eccv")),
        _zero_shot(keys_at(results, "zero_shot")),
        _judgments(keys_at(results, "judgments")),
        _connections(keys_at(results, "connections")),
        _plan(keys_at(results, "plan")),
    )
    return "\n\n".join(part for part in parts if part)


def write_json(path: str | Path, obj: object) -> None:
    """Writes `obj` as indented JSON, whole or not at all. Floats keep six digits; NaN and infinity become null."""
    content = json_bytes(_plain(obj), indent=2, allow_nan=False)
    with atomic_write(Path(path)) as file:
        file.write(content + b"\n")


def _against(title: str, found: Keys, figures: Mapping[str, str]) -> str:
    """A row a relevance and ranking; the figures of image queries and of text queries."""
    rows = [
        (
            f"against the {relevance.replace('_', ' ')}, {label}",
            [_figure(at(scores, way, name)) for way in ("image", "text") for name in figures],
        )
        for relevance in ("annotation", "truth", "test_set")
        for ranking, label in RANKINGS.items()
        if (scores := keys_at(found, ranking, relevance))
    ]
    first, *others = figures.values()
    return _table(title, [f"image {first}", *others, f"  text {first}", *others], rows)


def _eccv(eccv: Keys) -> str:
    rows = [
        (f"{name}, {label}", [_figure(at(found, name, way)) for way in ("image", "text")])
        for ranking, label in RANKINGS.items()
        if (found := keys_at(eccv, ranking))
        for name in sorted(found)
    ]
    return _table("ECCV Caption and CxC, in %", ["image", "text"], rows)


def _zero_shot(found: Keys) -> str:
    images, classes = (_figure(found.get(name), digits=0) for name in ("images", "classes"))
    row = [classes, *(_figure(found.get(name)) for name in ("top1", "top5"))]
    title, header = "Zero-shot classification, in %", ["classes", "top 1", "top 5"]
    return _table(title, header, [(f"over {images} images", row)] if found else [])


def _judgments(judgments: Keys) -> str:
    """One row per selection of pairs: AUC and average precision (AP) of every scorer that any row has."""
    shown = {name: label for name, label in SCORERS.items() if any(at(found, name) for found in judgments.values())}
    rows = [
        (label, [_figure(at(next(iter(found.values())), "pairs"), digits=0), *_of_scorers(found, shown)])
        for name, label in JUDGED.items()
        if (found := keys_at(judgments, name))
    ]
    header = ["pairs", *(title for label in shown.values() for title in (f"  {label} AUC", "AP"))]
    return _table("Agreement with human judgments", header, rows)


def _of_scorers(found: Keys, scorers: Iterable[str]) -> list[str]:
    return [_figure(at(found, scorer, name), digits=3) for scorer in scorers for name in ("auc", "ap")]


def _connections(connections: Keys) -> str:
    scored, found = (_figure(connections.get(name), digits=0) for name in ("pairs_scored", "connections"))
    shares = ["precision", "recall", "coverage"]
    row = [found, *(_figure(connections.get(name), 100, " %") for name in shares)]
    label = f"over the {scored} pairs put to Con-D"
    return _table("Connections", ["found", *shares], [(label, row)] if connections else [])


def _plan(plan: Keys) -> str:
    rows = [(label, [_figure(plan[name], scale, unit)]) for name, (label, scale, unit) in PLAN.items() if name in plan]
    return _table("Batches", [str(plan.get("sampling") or "")], rows)


def _table(title: str, header: Sequence[str], rows: Sequence[Row]) -> str:
    """Names to the left, figures to the right, a rule below the header; no rows, no table."""
    if not rows:
        return ""
    labels, cells = zip(*rows, strict=True)
    frame = pd.DataFrame(cells, labels, pd.Index(header, name=title))
    first, *lines = frame.to_string(col_space=[len(name) + 1 for name in header]).splitlines()
    return "\n".join(line.rstrip() for line in (first, "-" * len(first), *lines))


def _figure(value: object, scale: int = 1, unit: str = "", digits: int = 1) -> str:
    if not isinstance(value, Real) or not math.isfinite(value):
        return "-"
    return f"{float(value) * scale:,.{digits}f}{unit}"


def _plain(value: object) -> object:
    """`value` in the types of JSON."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, (np.generic, np.ndarray)):
        return _plain(value.tolist())
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, float):
        return _readable(value)
    return value


def _readable(value: float) -> float | None:
    """Six digits after the point, or six significant ones below 1."""
    if not math.isfinite(value):
        return None
    return round(value, 6) if abs(value) >= 1 else float(f"{value:.6g}")
