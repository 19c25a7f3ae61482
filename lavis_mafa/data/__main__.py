"""`python -m lavis_mafa.data check --cfg-path X.yaml`: read a whole data set, report its faults, leave them out."""

import argparse
import os
import sys
from collections.abc import Mapping
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from lavis_mafa.common.artifacts import atomic_write, json_bytes
from lavis_mafa.common.config_file import (
    home_expanded,
    loaded,
    merged,
    named_config_errors,
    plain_config,
    read_config_file,
)
from lavis_mafa.common.errors import one_line_errors
from lavis_mafa.common.files import CONFIGS
from lavis_mafa.common.run_schema import TrainRun
from lavis_mafa.common.shapes import check_shapes
from lavis_mafa.common.stdout import print_anything, printable, show
from lavis_mafa.data.check import Annotation, SplitReport, check_split
from lavis_mafa.data.rules import FileRules

CHECKED, RENDERED = "image_text", "scenes"
SHOWN = 20  # problems of a split in the readable report; report.json has all


def main(arguments: list[str] | None = None) -> int:
    """0: all is well; 1: there are problems."""
    print_anything()
    parser = argparse.ArgumentParser(prog="python -m lavis_mafa.data")
    check = parser.add_subparsers(dest="command", required=True).add_parser(
        "check", help="read every annotation and image of a data set, and list what is broken"
    )
    check.add_argument("--cfg-path", required=True, type=Path, help="YAML of a run with datasets.image_text")
    check.add_argument("--options", nargs="+", default=[], metavar="KEY=VALUE", help="override settings of the YAML")
    check.add_argument(
        "--output", type=Path, default=Path("output/data_check"), help="folder for the report and the cleaned files"
    )
    check.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="number of threads that open images")
    given = parser.parse_args(arguments)
    return _check(given)


@one_line_errors()
def _check(given: argparse.Namespace) -> int:
    if given.workers < 1:
        raise ValueError(f"--workers is {given.workers}; it must be at least 1")
    dataset, batch_size = _settings(given.cfg_path, given.options)
    roots = [dataset.images] if isinstance(dataset.images, str) else list(dataset.images or [""])
    for root in roots:
        if not root or not Path(root).is_dir():
            raise ValueError(f"datasets.{CHECKED}.images: no folder at {root!r}")
    if not any((dataset.annotations or {}).values()):
        raise ValueError(f"datasets.{CHECKED}.annotations is empty; set it, e.g. annotations: {{train: my.json}}")
    columns, rules = dataset.get("columns") or {}, FileRules.of(dataset)
    reports = {}
    splits = {split: files for split, files in dataset.annotations.items() if files}  # null: without that split
    for split, files in splits.items():
        paths = [Path(file) for file in ([files] if isinstance(files, str) else files)]
        cleaned = given.output / f"{split}_clean.jsonl"
        least = batch_size if split == "train" else 1
        annotation = Annotation(split, paths, roots, columns, rules)
        reports[split] = check_split(annotation, cleaned, given.workers, least)
    text = printable("\n".join(_readable(split, report) for split, report in reports.items()))
    _write(given.output, reports, text)
    kept = [Path(report.cleaned).name for report in reports.values() if report.kept_rows]
    sound = f", and the rows without problems: {', '.join(kept)}" if kept else "; no row is without problems"
    show(f"{text}\nwritten to {given.output}: report.json, report.txt{sound}")
    return int(any(report.problems for report in reports.values()))


def _settings(path: Path, options: list[str]) -> tuple[DictConfig, int]:
    """(datasets.image_text over its packaged defaults, run.batch_size_train)."""
    named = [option for option in options if option.startswith("run.output_dir=")]
    if named:
        raise ValueError(f"{named[0]}: the report and the cleaned files go to --output: name the folder there")
    given = read_config_file(path, options)
    with named_config_errors(path):
        names = list(given.get("datasets") or {})
        if names != [CHECKED]:
            rendered = " (scenes are rendered: there is nothing to check)" if RENDERED in names else ""
            raise ValueError(f"{path}: datasets are {names}; this command checks {CHECKED}{rendered}")
        size = (given.get("run") or {}).get("batch_size_train", TrainRun.batch_size_train)
        if type(size) is not int or size < 1:
            raise ValueError(f"run.batch_size_train is {size!r}: allowed is a whole number from 1 on")
        if given.datasets[CHECKED] is None:
            given.datasets[CHECKED] = {}
        config = home_expanded(merged(loaded(CONFIGS / "datasets" / f"{CHECKED}.yaml"), given))
        dataset = dict(plain_config(config.datasets[CHECKED]))
        check_shapes({"datasets": {CHECKED: dataset}})
        return OmegaConf.create(dataset), size


def _readable(split: str, report: SplitReport) -> str:
    lines = [
        f"{split}: {report.rows} rows, {report.kept_rows} kept: {report.records} records, {report.captions} captions",
        "  images: " + (", ".join(f"{count} {mode}" for mode, count in report.modes.most_common()) or "none"),
        *(f"  note: {count} {note}" for note, count in report.notes.items()),
        *(f"  problems with {kind}: {_counted(kind, count, report)}" for kind, count in report.kinds.items()),
        *(f"    {' '.join(filter(None, (p.file, p.place)))}: {p.message}" for p in report.problems[:SHOWN]),
    ]
    if len(report.problems) > SHOWN:
        lines.append(f"    … and {len(report.problems) - SHOWN} more in report.json")
    return "\n".join(lines)


def _counted(kind: str, count: int, report: SplitReport) -> str:
    rows = sum(report.rows_without_image.values())
    return f"{count} in {rows} rows" if kind == "image" and rows > count else str(count)


def _write(folder: Path, reports: Mapping[str, SplitReport], text: str) -> None:
    content = json_bytes({split: report.as_dict() for split, report in reports.items()}, indent=1)
    for name, written in (("report.json", content), ("report.txt", text.encode(errors="backslashreplace"))):
        with atomic_write(folder / name) as file:
            file.write(written + b"\n")


if __name__ == "__main__":
    sys.exit(main())
