"""The table a run ends with, and the JSON file that holds the same figures."""

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lavis_mafa.common.artifacts import atomic_write

RANKINGS = {"itc": "by ITC", "itm": "re-ranked by ITM"}
RECALLS = [(way, f"r{k}") for way in ("image", "text") for k in (1, 5, 10)]
RECALL_HEADER = ["image R@1", "R@5", "R@10", "  text R@1", "R@5", "R@10"]
AT_R = [(way, name) for way in ("image", "text") for name in ("r_precision", "map_at_r")]
AT_R_HEADER = ["image R-P", "mAP@R", "  text R-P", "mAP@R"]
SCORERS = {"itc": "ITC", "itm": "ITM", "con_d": "Con-D"}
JUDGED = {
    "all": "false from hard true negatives",
    "unanimous": "  where all votes agree",
    "any_kind": "every match from every mismatch",
    "any_kind_unanimous": "  where all votes agree",
}
PLAN = {
    "distinct_images_per_batch": ("distinct images per batch", 1, ""),
    "false_negatives_per_batch": ("false negatives per batch", 1, ""),
    "itm_false_negative_rate": ("false negatives among ITM negatives", 100, " %"),
}


def results_table(results: Mapping[str, Any]) -> str:
    """The results as text. Any part, and any figure of a part, may be missing or None; it then shows as "-".

    results: `retrieval` {itc | itm: {annotation | truth: {image | text: {r1, r5, r10: percent}}},
            at_r: the same with {r_precision, map_at_r}, eccv: {itc | itm: {metric: {image | text: percent}}}},
        `zero_shot` {top1, top5: percent; images, classes: counts},
        `judgments` {all | unanimous | any_kind | any_kind_unanimous: {itc | itm | con_d: {auc, ap; pairs: count}}},
        `connections` {pairs_scored, connections: counts; precision, recall, coverage: shares},
        `plan` {sampling; distinct_images_per_batch, false_negatives_per_batch; itm_false_negative_rate: share}.
    """
    parts = (
        _retrieval(results.get("retrieval") or {}),
        _at_r((results.get("retrieval") or {}).get("at_r") or {}),
        _eccv((results.get("retrieval") or {}).get("eccv") or {}),
        _zero_shot(results.get("zero_shot") or {}),
        _judgments(results.get("judgments") or {}),
        _connections(results.get("connections") or {}),
        _plan(results.get("plan") or {}),
    )
    return "\n\n".join(part for part in parts if part)


def write_json(path: str | Path, obj: object) -> None:
    """Writes `obj` as indented JSON, whole or not at all. Floats keep six digits; NaN and infinity become null."""
    text = json.dumps(_plain(obj), indent=2, ensure_ascii=False, allow_nan=False)
    with atomic_write(Path(path)) as file:
        file.write(f"{text}\n".encode())


def _retrieval(retrieval: Mapping[str, Any]) -> str:
    rows = [
        [f"against the {relevance}, {label}", *(_figure(scores.get(way, {}).get(k)) for way, k in RECALLS)]
        for relevance in ("annotation", "truth")
        for ranking, label in RANKINGS.items()
        if (scores := retrieval.get(ranking, {}).get(relevance))
    ]
    return _aligned("Retrieval, in %", RECALL_HEADER, rows) if rows else ""


def _at_r(at_r: Mapping[str, Any]) -> str:
    """Where a query has several matches: image and text queries apart."""
    rows = [
        [f"against the {relevance}, {label}", *(_figure(found.get(way, {}).get(name)) for way, name in AT_R)]
        for relevance in ("annotation", "truth")
        for ranking, label in RANKINGS.items()
        if (found := at_r.get(ranking, {}).get(relevance))
    ]
    return _aligned("Several matches, in %", AT_R_HEADER, rows) if rows else ""


def _eccv(eccv: Mapping[str, Any]) -> str:
    rows = [
        [f"{name}, {label}", *(_figure(found[name].get(way)) for way in ("image", "text"))]
        for ranking, label in RANKINGS.items()
        if (found := eccv.get(ranking))
        for name in sorted(found)
    ]
    return _aligned("ECCV Caption and CxC, in %", ["image", "text"], rows) if rows else ""


def _zero_shot(found: Mapping[str, Any]) -> str:
    if not found:
        return ""
    counts = [_figure(found.get(name), digits=0) for name in ("images", "classes")]
    row = [f"over {counts[0]} images", counts[1], *(_figure(found.get(name)) for name in ("top1", "top5"))]
    return _aligned("Zero-shot classification, in %", ["classes", "top 1", "top 5"], [row])


def _judgments(judgments: Mapping[str, Any]) -> str:
    """A row a choice of pairs; AUC and average precision (AP) of every scorer that some row has."""
    shown = {name: label for name, label in SCORERS.items() if any(name in found for found in judgments.values())}
    rows = []
    for name, label in JUDGED.items():
        if found := judgments.get(name):
            pairs = next(iter(found.values())).get("pairs")
            figures = [found.get(scorer, {}).get(figure) for scorer in shown for figure in ("auc", "ap")]
            rows.append([label, _figure(pairs, digits=0), *(_figure(value, digits=3) for value in figures)])
    header = ["pairs", *(title for label in shown.values() for title in (f"  {label} AUC", "AP"))]
    return _aligned("Told apart, as people judge", header, rows) if rows else ""


def _connections(connections: Mapping[str, Any]) -> str:
    if not connections:
        return ""
    shares = ("precision", "recall", "coverage")
    row = [
        _figure(connections.get("connections"), digits=0),
        *(_figure(connections.get(name), 100, " %") for name in shares),
    ]
    scored = _figure(connections.get("pairs_scored"), digits=0)
    return _aligned("Connections", ["found", *shares], [[f"over the {scored} pairs put to Con-D", *row]])


def _plan(plan: Mapping[str, Any]) -> str:
    rows = [[label, _figure(plan[name], scale, unit)] for name, (label, scale, unit) in PLAN.items() if name in plan]
    return _aligned("Batches", [str(plan.get("sampling") or "")], rows) if rows else ""


def _aligned(title: str, header: list[str], rows: Iterable[list[str]]) -> str:
    """Names to the left, figures to the right, a rule below the header."""
    lines = [[title, *header], *rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = ["  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]).rstrip() for line in lines]
    rule = "-" * (sum(widths) + 2 * len(header))
    return "\n".join([text[0], rule, *text[1:]])


def _figure(value: float | None, scale: int = 1, unit: str = "", digits: int = 1) -> str:
    known = value is not None and math.isfinite(value)
    return f"{value * scale:,.{digits}f}{unit}" if known and value is not None else "-"


def _plain(value: Any) -> Any:
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
