"""results.html of a run, and the page that compares several. One file each, no network, no server."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
import yaml

from lavis_mafa.common.artifacts import atomic_write
from lavis_mafa.reports.comparison import Comparison
from lavis_mafa.reports.gallery import PAGES


def write_run_page(
    folder: Path, name: str, tables: Mapping[str, str], results: Mapping[str, object], written: Sequence[str]
) -> Path:
    """Write results.html into the run's folder, and return its path.

    tables: split → the table that the run printed. results: what results.json holds. written: what else the run wrote,
    by paths below the folder; pictures are shown, pages linked.
    """
    facts = {
        "name": name,
        "tables": tables,
        "pictures": [path for path in written if path.endswith(".png")],
        "pages": [path for path in written if path.endswith("/index.html")],
        "files": [path for path in written if not path.endswith((".png", ".html"))],
        "cost": _cost(folder, results),
        "versions": {**_mapping(results.get("versions")), "commit": results.get("commit") or "-"},
        "weights": _mapping(results.get("checkpoint")),
        "config": yaml.safe_dump(results.get("config"), sort_keys=False, allow_unicode=True),
    }
    return _write(folder / "results.html", "run.html.j2", facts)


def write_comparison(path: Path, comparison: Comparison, folders: Sequence[Path]) -> Path:
    """Write the page of a comparison, and return its path."""
    baseline, *others = comparison.settings
    rows = [
        {
            "figure": _named(str(figure)),
            "baseline": _number(row[(baseline, "mean")]),
            "others": [_against(row, name) for name in others],
        }
        for figure, row in comparison.table.iterrows()
    ]
    seeds = {name: int(comparison.table[(name, "seeds")].max()) for name in comparison.settings}
    facts = {"baseline": baseline, "others": others, "rows": rows, "seeds": seeds, "folders": [str(f) for f in folders]}
    return _write(path, "comparison.html.j2", facts)


def comparison_text(comparison: Comparison) -> str:
    """The comparison as a text table: a figure a row, `*` at a significant difference."""
    baseline, *others = comparison.settings
    lines = {
        _named(str(figure)): [_number(row[(baseline, "mean")]), *(_text(_against(row, name)) for name in others)]
        for figure, row in comparison.table.iterrows()
    }
    header = ["baseline", *(f"({number})" for number in range(1, len(others) + 1))]
    names = [f"baseline: {baseline}", *(f"({number}) {name}" for number, name in enumerate(others, 1))]
    table = pd.DataFrame.from_dict(lines, orient="index", columns=header).to_string()
    return "\n".join([*names, "", table])


NAMES = {"itc": "ITC", "itm": "ITM", "r_precision": "R-precision", "map_at_r": "mAP@R", "auc": "AUC"}


def _named(figure: str) -> str:
    """A figure named by its key in results.json, with the field's terms: `itc / image / r1` is `ITC / image / R@1`."""
    parts = (re.sub(r"^r(\d+)$", r"R@\1", part) for part in figure.split(" / "))
    return " / ".join(NAMES.get(part, part) for part in parts)


def _against(row: pd.Series, name: str) -> dict[str, object]:
    half = float(row[(name, "half")])
    return {
        "mean": _number(row[(name, "mean")]),
        "difference": f"{row[(name, 'difference')]:+.4g}",
        "half": "" if math.isnan(half) else f"{half:.2g}",
        "significant": bool(row[(name, "significant")]),
    }


def _text(found: Mapping[str, object]) -> str:
    half = f" ± {found['half']}" if found["half"] else ""
    return f"{found['mean']} ({found['difference']}{half}){'*' if found['significant'] else ''}"


def _number(value: object) -> str:
    number = float(str(value))
    return "-" if math.isnan(number) else f"{number:.4g}"


def _mapping(value: object) -> dict[str, object]:
    return dict(value) if isinstance(value, Mapping) else {}


def _cost(folder: Path, results: Mapping[str, object]) -> dict[str, str]:
    """Steps, seconds a step, and hours in all; empty where nothing was trained."""
    journal = folder / "steps.jsonl"
    if "seconds_per_step" not in results or not journal.exists():
        return {}
    seconds = pd.read_json(journal, lines=True)["s_it"]
    return {
        "steps": f"{len(seconds):,}",
        "seconds a step, median": f"{seconds.median():.3g}",
        "hours of training steps": f"{seconds.sum() / 3600:.3g}",
    }


def _write(path: Path, template: str, facts: Mapping[str, object]) -> Path:
    html = PAGES.get_template(template).render(**facts)
    with atomic_write(path) as file:
        file.write(html.encode("utf-8"))
    return path
