"""Checks a whole data set before a run: reports every fault by row and writes the annotation without the faulty rows.

It does not stop at the first fault. Each image is opened once, as in training (images.py).
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from lavis_mafa.common.artifacts import atomic_write, json_bytes
from lavis_mafa.common.files import mistaken
from lavis_mafa.common.progress import progress_bar
from lavis_mafa.data.annotations import READERS, Columns
from lavis_mafa.data.identity import clean_path, normalised
from lavis_mafa.data.images import is_turned, open_image

LONG_CAPTION = 1000  # characters; a tokenizer cuts far below
CHUNK = 1024  # images submitted to the threads at a time


class Problem(NamedTuple):
    """What is wrong and where. place: "line 7", "row 7", "" for a whole file; kind: file, row, image, id, batch."""

    file: str
    place: str
    kind: str
    message: str


class Row(NamedTuple):
    """A row of a file (values), and the fields read from it."""

    file: str
    place: str
    values: Mapping[str, Any]
    image: str
    image_id: str | None
    captions: list[str]


class Look(NamedTuple):
    """What opening an image showed: its fault ("" for none), Pillow's colour mode, whether it has several frames.

    turned: its EXIF orientation says that it is stored turned or mirrored.
    """

    fault: str
    mode: str = ""
    animated: bool = False
    turned: bool = False


@dataclass
class SplitReport:
    """What a split holds. Rows with a problem are not in the cleaned file; notes are about rows that are.

    records: distinct images that are kept; modes: colour modes of their files as Pillow names them, all read as RGB.
    """

    rows: int = 0
    kept_rows: int = 0
    records: int = 0
    captions: int = 0
    cleaned: str = ""
    modes: Counter[str] = field(default_factory=Counter)
    notes: Counter[str] = field(default_factory=Counter)
    problems: list[Problem] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Plain types, for JSON."""
        kinds = Counter(problem.kind for problem in self.problems)
        return {**vars(self), "kinds": kinds, "problems": [problem._asdict() for problem in self.problems]}


def check_split(
    files: Sequence[Path], root: Path, columns: Mapping[str, str], cleaned: Path, workers: int, batch_size: int = 1
) -> SplitReport:
    """Read the annotation `files` and every image below `root`, and write the good rows to `cleaned` (.jsonl).

    columns: image_key, caption_key, id_key where the files name them otherwise; cleaned rows keep all their columns.
    workers: threads that open images. batch_size: fewer records than that are a problem.
    """
    looks = _look_at_all(root, [row.image for row in _rows(files, columns, [])], workers)
    report = SplitReport(cleaned=str(cleaned))
    with atomic_write(cleaned) as file:
        for row in _good_rows(files, columns, looks, report):
            file.write(json_bytes(row.values, default=str) + b"\n")
    if report.records < batch_size:
        problem = f"{report.records} records are left, fewer than a batch of {batch_size}: lower run.batch_size_train"
        report.problems.append(Problem("", "", "batch", problem))
    return report


def _good_rows(
    files: Sequence[Path], columns: Mapping[str, str], looks: Mapping[str, Look], report: SplitReport
) -> Iterator[Row]:
    """The rows without a problem; everything else goes into the report."""
    image_of: dict[str, str] = {}  # identity → image
    seen: set[tuple[str, str]] = set()
    for row in _rows(files, columns, report.problems):
        report.rows += 1
        image = clean_path(row.image)
        identity = row.image_id or image
        if fault := looks[image].fault:
            report.problems.append(Problem(row.file, row.place, "image", fault))
            continue
        if (first := image_of.setdefault(identity, image)) != image:
            problem = f"image id {identity!r} belongs to two images, {first!r} and {image!r}"
            report.problems.append(Problem(row.file, row.place, "id", problem))
            continue
        _note(row, identity, seen, report)
        yield row
    for image in set(image_of.values()):
        report.modes[looks[image].mode] += 1
        report.notes["animated images; only their first frame is read"] += looks[image].animated
        report.notes["images stored turned or mirrored (EXIF orientation), read upright"] += looks[image].turned
    report.records, report.rows = len(image_of), report.rows + sum(problem.kind == "row" for problem in report.problems)
    report.notes = +report.notes  # without zeros


def _note(row: Row, identity: str, seen: set[tuple[str, str]], report: SplitReport) -> None:
    report.kept_rows += 1
    report.captions += len(row.captions)
    for caption in row.captions:
        report.notes[f"captions longer than {LONG_CAPTION} characters; the tokenizer keeps their start"] += (
            len(caption) > LONG_CAPTION
        )
        key = identity, normalised(caption)
        report.notes["captions that their image repeats, kept once"] += key in seen
        seen.add(key)


def _rows(files: Sequence[Path], columns: Mapping[str, str], problems: list[Problem]) -> Iterator[Row]:
    """Every readable row; faults go into `problems`. A file that breaks off yields the rows before the break."""
    for file in files:
        if file.suffix.lower() not in READERS or not file.is_file():
            problem = (
                f"unknown suffix; allowed are {', '.join(READERS)}" if file.is_file() else "no such annotation file"
            )
            problems.append(Problem(str(file), "", "file", problem))
            continue
        if what := mistaken(file):
            problems.append(Problem(str(file), "", "file", f"it {what}"))
            continue
        before = len(problems)
        count = 0
        try:
            for row in _rows_of(file, columns, problems):
                count += 1
                yield row
        except ValueError as error:
            problems.append(Problem(str(file), "", "file", str(error)))
        if not count and len(problems) == before:
            problems.append(
                Problem(str(file), "", "file", "no rows: it needs at least one row with an image and a caption")
            )


def _rows_of(file: Path, columns: Mapping[str, str], problems: list[Problem]) -> Iterator[Row]:
    unit = READERS[file.suffix.lower()][1]
    found: Columns | None = None
    for number, values in _entries(file, problems):
        place = f"{unit} {number}"
        found = found or Columns.find(values, *(columns.get(key) for key in ("image_key", "caption_key", "id_key")))
        read: dict[str, list[Any]] = {"image": [], "caption": [], "image_id": []}
        try:
            found.append(values, read)
        except ValueError as error:
            problems.append(Problem(str(file), place, "row", str(error)))
            continue
        yield Row(str(file), place, values, read["image"][0], read["image_id"][0], read["caption"][0])


def _entries(file: Path, problems: list[Problem]) -> Iterator[tuple[int, Any]]:
    """(number, row); a broken line of a JSONL file is passed over, while other formats end where they break."""
    if file.suffix.lower() != ".jsonl":
        yield from READERS[file.suffix.lower()][0](file)
        return
    with file.open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, 1):
            try:
                if line.strip():
                    yield number, json.loads(line)
            except json.JSONDecodeError as error:
                problem = f"broken JSON at column {error.colno}: {error.msg}"
                problems.append(Problem(str(file), f"line {number}", "row", problem))


def _look_at_all(root: Path, images: Sequence[str], workers: int) -> dict[str, Look]:
    paths = list(dict.fromkeys(clean_path(image) for image in images))
    looks: list[Look] = []
    with ThreadPoolExecutor(workers) as pool, progress_bar(total=len(paths), desc="images", unit="image") as bar:
        for start in range(0, len(paths), CHUNK):
            for look in pool.map(partial(_look, root), paths[start : start + CHUNK]):
                looks.append(look)
                bar.update()
    return dict(zip(paths, looks, strict=True))


def _look(root: Path, path: str) -> Look:
    try:
        open_image(root, path)
    except ValueError as error:
        return Look(str(error))
    with Image.open(root / path) as image:
        return Look("", image.mode, bool(getattr(image, "is_animated", False)), is_turned(image))
