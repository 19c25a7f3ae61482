"""Checks a whole data set before a run: reports every fault by row and writes the annotation without the faulty rows.

It does not stop at the first fault. Each image is opened once, as in training (images.py).
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple

from lavis_mafa.common.artifacts import atomic_write, json_bytes
from lavis_mafa.common.hashing import file_sha256
from lavis_mafa.common.progress import progress_bar
from lavis_mafa.data.annotations import Columns
from lavis_mafa.data.identity import clean_path, normalised
from lavis_mafa.data.images import Roots, image_file, opened, relative_path
from lavis_mafa.data.pixels import in_rgb, is_turned
from lavis_mafa.data.readers import rows_of
from lavis_mafa.data.rules import DEFAULTS, FileRules

LONG_CAPTION = 1000  # characters; a tokenizer cuts far below
CHUNK = 1024  # images submitted to the threads at a time
COPIES = "image files that are copies of another one, whose captions count as mismatches of it: keep one of each"


class Problem(NamedTuple):
    """What is wrong and where. place: "line 7", "row 7", "" for a whole file; kind: file, row, image, id, batch."""

    file: str
    place: str
    kind: str
    message: str


class Row(NamedTuple):
    """A row of a file (values), and the fields read from it. image: its path in one spelling."""

    file: str
    place: str
    values: object
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

    rows_without_image: how many rows name each faulty image, of which problems have the first. records: distinct images
    that are kept; modes: colour modes of their files as Pillow names them, all read as RGB.
    """

    rows: int = 0
    kept_rows: int = 0
    records: int = 0
    captions: int = 0
    cleaned: str = ""
    modes: Counter[str] = field(default_factory=Counter)
    notes: Counter[str] = field(default_factory=Counter)
    rows_without_image: Counter[str] = field(default_factory=Counter)
    problems: list[Problem] = field(default_factory=list)

    @property
    def kinds(self) -> Counter[str]:
        """How many problems there are of each kind."""
        return Counter(problem.kind for problem in self.problems)

    def as_dict(self) -> dict[str, object]:
        """Plain types, for JSON."""
        return {**vars(self), "kinds": self.kinds, "problems": [problem._asdict() for problem in self.problems]}


@dataclass(frozen=True)
class Annotation:
    """The files of a split. columns: image_key, caption_key, id_key where the files name them otherwise."""

    split: str
    files: Sequence[Path]
    root: Roots
    columns: Mapping[str, str]
    rules: FileRules = DEFAULTS


def check_split(annotation: Annotation, cleaned: Path, workers: int, batch_size: int = 1) -> SplitReport:
    """Read the annotation and every image, and write the good rows, with all their columns, to `cleaned` (.jsonl).

    workers: threads that open images. batch_size: fewer records than that are a problem.
    """
    looks = _look_at_all(annotation, [row.image for row in _rows(annotation, [])], workers)
    report = SplitReport(cleaned=str(cleaned))
    with atomic_write(cleaned) as file:
        for row in _good_rows(annotation, looks, report):
            file.write(json_bytes(row.values, default=str) + b"\n")
    unread = any(problem.kind == "file" for problem in report.problems)  # what is left says nothing of the data then
    if report.records < batch_size and not unread:
        problem = f"{report.records} records are left, fewer than a batch of {batch_size}: lower run.batch_size_train"
        report.problems.append(Problem("", "", "batch", problem))
    return report


def _good_rows(annotation: Annotation, looks: Mapping[str, Look], report: SplitReport) -> Iterator[Row]:
    """The rows without a problem; everything else goes into the report."""
    image_of: dict[str, str] = {}  # identity → image
    seen: set[tuple[str, str]] = set()
    for row in _rows(annotation, report.problems):
        report.rows += 1
        identity = row.image_id or row.image
        if fault := looks[row.image].fault:
            report.rows_without_image[row.image] += 1
            if report.rows_without_image[row.image] == 1:  # once an image, not once a caption
                report.problems.append(Problem(row.file, row.place, "image", fault))
            continue
        if (first := image_of.setdefault(identity, row.image)) != row.image:
            problem = f"image id {identity!r} belongs to two images, {first!r} and {row.image!r}"
            report.problems.append(Problem(row.file, row.place, "id", problem))
            continue
        _note(row, seen, report)
        yield row
    ids = Counter(image_of.values())
    for image, count in ids.items():
        report.notes["images that stand under several ids, read as one with the captions of all"] += count > 1
        report.modes[looks[image].mode] += 1
        report.notes["animated images; only their first frame is read"] += looks[image].animated
        report.notes["images stored turned or mirrored (EXIF orientation), read upright"] += looks[image].turned
    report.notes[COPIES] = _copies(annotation, ids)
    report.records, report.rows = len(ids), report.rows + sum(problem.kind == "row" for problem in report.problems)
    report.notes = +report.notes  # without zeros


def _copies(annotation: Annotation, images: Iterable[str]) -> int:
    """How many files have the bytes of another one; only files of equal size are read."""
    by_size: defaultdict[int, list[Path]] = defaultdict(list)
    for image in images:
        file = image_file(annotation.root, image, annotation.rules)
        by_size[file.stat().st_size].append(file)
    alike = (files for files in by_size.values() if len(files) > 1)
    return sum(len(files) - len({file_sha256(file) for file in files}) for files in alike)


def _note(row: Row, seen: set[tuple[str, str]], report: SplitReport) -> None:
    report.kept_rows += 1
    report.captions += len(row.captions)
    for caption in row.captions:
        report.notes[f"captions longer than {LONG_CAPTION} characters; the tokenizer keeps their start"] += (
            len(caption) > LONG_CAPTION
        )
        key = row.image, normalised(caption)
        report.notes["repetitions of a caption by the same image, kept once"] += key in seen
        seen.add(key)


def _rows(annotation: Annotation, problems: list[Problem]) -> Iterator[Row]:
    """Every readable row; faults go into `problems`. A file that breaks off yields the rows before the break."""
    for file in annotation.files:
        before, count = len(problems), 0
        try:
            for row in _rows_of(file, annotation, problems):
                count += 1
                yield row
        except ValueError as error:
            problems.append(Problem(str(file), "", "file", str(error).removeprefix(f"{file}: ")))
        if not count and len(problems) == before:
            problems.append(
                Problem(str(file), "", "file", "no rows: it needs at least one row with an image and a caption")
            )


def _rows_of(file: Path, annotation: Annotation, problems: list[Problem]) -> Iterator[Row]:
    """The rows of a file; a broken line of JSON lines is passed over, while other formats end where they break."""
    keys = (annotation.columns.get(key) for key in ("image_key", "caption_key", "id_key"))
    found: Columns | None = None

    def broken(place: str, problem: str) -> None:
        problems.append(Problem(str(file), place, "row", problem))

    for place, values in rows_of(file, annotation.split, broken):
        found = found or Columns.find(values, *keys)
        try:
            path, captions, image_id = found.read(values, annotation.rules.max_characters)
        except ValueError as error:
            broken(place, str(error))
            continue
        yield Row(str(file), place, values, _spelled(annotation.root, path), image_id, captions)


def _spelled(root: Roots, path: str) -> str:
    """One spelling of a path; that of one which leads outside stays, and opening it says so."""
    try:
        return relative_path(root, path)
    except ValueError:
        return clean_path(path)


def _look_at_all(annotation: Annotation, images: Sequence[str], workers: int) -> dict[str, Look]:
    paths = list(dict.fromkeys(images))
    looks: list[Look] = []
    with ThreadPoolExecutor(workers) as pool, progress_bar(total=len(paths), desc="images", unit="image") as bar:
        for start in range(0, len(paths), CHUNK):
            for look in pool.map(partial(_look, annotation), paths[start : start + CHUNK]):
                looks.append(look)
                bar.update()
    return dict(zip(paths, looks, strict=True))


def _look(annotation: Annotation, path: str) -> Look:
    try:
        file = image_file(annotation.root, path, annotation.rules)
        with opened(file, str(file), annotation.rules) as image:
            look = Look("", image.mode, bool(getattr(image, "is_animated", False)), is_turned(image))
            in_rgb(image)
    except ValueError as error:
        return Look(str(error))
    return look
