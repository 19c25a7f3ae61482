"""Rows of a file (JSON, JSONL, CSV, TSV, Parquet) one at a time, each with its place for messages: "line 7".

A file of millions of rows is never held in memory as Python objects; JSON alone is read as one text.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from lavis_mafa.common.artifacts import reading
from lavis_mafa.common.files import mistaken
from lavis_mafa.data.layouts import Document, is_layout, layout_rows

CHUNK = 65_536  # rows of Parquet that are Python objects at a time

Placed = Iterator[tuple[str, object]]  # (place, the row as read)
Broken = Callable[[str, str], None]  # (place, what is wrong with a line of JSON): raises, or passes over the line


def rows_of(file: Path, split: str | None = None, broken: Broken | None = None) -> Placed:
    """(place, row) of every row of a file.

    Args:
        split: which images are read of a layout that has several splits (Karpathy's).
        broken: called for a broken line of JSON lines, which is then passed over; without it that is an error.

    Raises:
        ValueError: naming the file, and the line where it is broken: an unknown suffix, no such file, another encoding.
    """
    if file.suffix.lower() not in READERS:
        raise ValueError(f"{file}: unknown suffix {file.suffix!r}; supported are {', '.join(READERS)}")
    try:
        if not file.is_file():
            raise ValueError(f"{file}: no such annotation file; check the path in the configuration")
        if what := mistaken(file):
            raise ValueError(f"{file} {what}")
        yield from READERS[file.suffix.lower()](file, split, broken)
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not UTF-8 ({error}): save it as UTF-8") from error
    except RecursionError as error:
        raise ValueError(f"{file}: JSON that is nested too deeply to be read") from error
    except OSError as error:
        raise ValueError(f"{file} cannot be read ({error})") from error
    except ValueError as error:
        if str(file) in str(error):
            raise
        raise ValueError(f"{file}: {error}") from error  # Python reads no number of more than 4,300 digits


def layout_of(file: Path) -> Document | None:
    """The JSON object that the file is, if it is one of a known layout (layouts.py).

    Raises:
        ValueError: an object that is broken, or nested too deeply.
    """
    try:
        document = _document(file) if file.suffix.lower() in (".json", ".jsonl") else None
    except RecursionError as error:
        raise ValueError(f"{file}: JSON that is nested too deeply to be read") from error
    return document if document is not None and is_layout(document) else None


def _json(file: Path, split: str | None, broken: Broken | None) -> Placed:
    """A list of rows, JSON lines, or a layout, whatever the suffix says."""
    if _starts_a_list(file):
        yield from _listed(file)
    elif (document := _document(file)) is None:
        yield from _json_lines(file, broken)
    elif is_layout(document):
        try:
            yield from layout_rows(document, split)
        except ValueError as error:
            raise ValueError(f"{file}: {error}") from None
    else:
        yield "row 1", document


def _starts_a_list(file: Path) -> bool:
    """Whether `[` comes first; a list of one line may be the whole of a large file, which is not read for that."""
    with file.open(encoding="utf-8-sig") as text:
        start = next((part for part in iter(lambda: text.read(4096), "") if part.strip()), "")
    return start.lstrip().startswith("[")


def _first_line(file: Path) -> str:
    with file.open(encoding="utf-8-sig") as lines:
        return next(filter(None, map(str.strip, lines)), "")


def _document(file: Path) -> Document | None:
    """The object that is the whole file: of several lines, or a layout in one; None for JSON lines.

    Raises:
        ValueError: an object of several lines that is broken.
    """
    if _starts_a_list(file):
        return None
    first = _first_line(file)
    try:
        found = json.loads(first)
    except json.JSONDecodeError as error:
        if not first.startswith("{") or error.pos < len(first):
            return None
    else:
        alone = isinstance(found, dict) and is_layout(found) and file.read_text(encoding="utf-8-sig").strip() == first
        return found if alone else None
    try:
        whole: Document = json.loads(file.read_text(encoding="utf-8-sig"))
    except json.JSONDecodeError as error:
        raise _broken(file, error) from error
    return whole


def _broken(file: Path, error: json.JSONDecodeError) -> ValueError:
    return ValueError(f"{file}: broken JSON at line {error.lineno}, column {error.colno}: {error.msg}")


def _listed(file: Path) -> Placed:
    try:
        for number, row in enumerate(_elements(file.read_text(encoding="utf-8-sig")), 1):
            yield f"row {number}", row
    except json.JSONDecodeError as error:
        raise _broken(file, error) from error


def _elements(text: str) -> Iterator[object]:
    """The elements of a JSON list, one at a time."""
    decode, skip = json.JSONDecoder().raw_decode, re.compile(r"[ \t\r\n]*").match
    end, expected = 0, "["
    while True:
        at = _end(skip(text, end))
        mark = text[at : at + 1]
        if not mark or mark not in expected:
            raise json.JSONDecodeError(f"expected {' or '.join(expected)} of a list of rows", text, at)
        end = _end(skip(text, at + 1))
        if mark == "]":
            break
        if mark == "[" and text[end : end + 1] == "]":
            expected = "]"
            continue
        row, end = decode(text, end)
        yield row
        expected = ",]"
    if end < len(text):
        raise json.JSONDecodeError("text after the list of rows", text, end)


def _end(match: re.Match[str] | None) -> int:
    assert match is not None, "the pattern matches the empty string"
    return match.end()


def _json_lines(file: Path, broken: Broken | None) -> Placed:
    with file.open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                if broken is None:
                    where = f"line {number}, column {error.colno}"
                    raise ValueError(f"{file}: broken JSON at {where}: {error.msg}") from error
                broken(f"line {number}", f"broken JSON at column {error.colno}: {error.msg}")
                continue
            yield f"line {number}", row


def _delimited(delimiter: str) -> Callable[[Path, str | None, Broken | None], Placed]:
    def read(file: Path, split: str | None, broken: Broken | None) -> Placed:
        with file.open(encoding="utf-8-sig", newline="") as lines:
            reader = csv.DictReader(lines, delimiter=delimiter, strict=True)
            number = 2
            try:
                for row in reader:
                    if None in row:
                        raise ValueError(
                            f"{file}, line {number}: more fields than the header has columns; quote the text"
                        )
                    yield f"line {number}", row
                    number = reader.line_num + 1
            except csv.Error as error:
                raise ValueError(f"{file}, line {number}: {error}; a field with quotes must be quoted") from error

    return read


def _parquet(file: Path, split: str | None, broken: Broken | None) -> Placed:
    with reading(file, "Parquet file"):
        batches: Iterable[pa.RecordBatch] = pq.ParquetFile(file).iter_batches(batch_size=CHUNK)
        rows = (row for batch in batches for row in batch.to_pylist())
        yield from ((f"row {number}", row) for number, row in enumerate(rows, 1))


READERS: Mapping[str, Callable[[Path, str | None, Broken | None], Placed]] = {
    ".json": _json,
    ".jsonl": _json,
    ".csv": _delimited(","),
    ".tsv": _delimited("\t"),
    ".parquet": _parquet,
}
