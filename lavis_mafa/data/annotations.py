"""Annotation files of image-caption pairs (JSON, JSONL, CSV, TSV, Parquet), read row by row into one Arrow table.

Rows are streamed: a file of millions of rows is never held in memory as Python objects.
"""

import ast
import csv
import difflib
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from lavis_mafa.common.artifacts import reading
from lavis_mafa.common.files import mistaken
from lavis_mafa.data.identity import key_string

ROWS = pa.schema(
    [
        ("image", pa.large_string()),
        ("caption", pa.large_list(pa.large_string())),
        ("image_id", pa.large_string()),  # null where the annotation has none
    ]
)
IMAGE_KEYS = ("image", "file_name", "filepath", "path")
CAPTION_KEYS = ("caption", "captions", "text", "title")
ID_KEY = "image_id"  # a plain `id` often numbers the captions (COCO), so it is read only where id_key says so
CHUNK = 65_536  # rows that are Python objects at a time

Numbered = Iterator[tuple[int, object]]  # (row or line, counted from 1; the row as read)
FilePath = str | os.PathLike[str]


def read_annotations(
    files: FilePath | Sequence[FilePath],
    *,
    image_key: str | None = None,
    caption_key: str | None = None,
    id_key: str | None = None,
) -> pa.Table:
    """Rows of one or several annotation files, in order, as a table of schema `ROWS`.

    A row names an image (path below the images' root), one caption or a list of them, and may carry an image id
    (number or string). A list may be written as text, as JSON or as Python prints it: CSV knows no lists. Columns are
    found by their usual names unless a key names them.
    ValueError, naming file and row: unknown suffix, missing column, broken file, no rows, empty caption.
    """
    paths = [files] if isinstance(files, (str, os.PathLike)) else list(files)
    if not paths:
        raise ValueError("no annotation file given: name at least one")
    return pa.concat_tables([_read_file(Path(path), image_key, caption_key, id_key) for path in paths])


def _read_file(file: Path, image_key: str | None, caption_key: str | None, id_key: str | None) -> pa.Table:
    if file.suffix.lower() not in READERS:
        raise ValueError(f"{file}: unknown suffix {file.suffix!r}; supported are {', '.join(READERS)}")
    if not file.is_file():
        raise ValueError(f"{file}: no such annotation file; check the path in the configuration")
    if what := mistaken(file):
        raise ValueError(f"{file} {what}")
    reader, unit = READERS[file.suffix.lower()]
    columns: Columns | None = None
    chunks, rows = [], _empty()
    try:
        for number, row in reader(file):
            try:
                columns = columns or Columns.find(row, image_key, caption_key, id_key)
                columns.append(row, rows)
            except ValueError as error:
                raise ValueError(f"{file}, {unit} {number}: {error}") from None
            if len(rows["image"]) == CHUNK:
                chunks.append(pa.table(rows, schema=ROWS))
                rows = _empty()
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not UTF-8 ({error}): save it as UTF-8") from error
    if columns is None:
        raise ValueError(f"{file} has no rows: it needs at least one row with an image and a caption")
    return pa.concat_tables([*chunks, pa.table(rows, schema=ROWS)])


def annotated_rows(
    file: Path, image_key: str | None = None, caption_key: str | None = None, id_key: str | None = None
) -> Iterator[tuple[Mapping[str, Any], str, str | None, str]]:
    """Every row of a file as read, with image, image id (None without one) and caption column."""
    columns: Columns | None = None
    for _, row in READERS[file.suffix.lower()][0](file):
        columns = columns or Columns.find(row, image_key, caption_key, id_key)
        values = _mapping(row)
        key = values.get(columns.id)
        yield values, str(values[columns.image]), None if key is None or key == "" else key_string(key), columns.caption


def _empty() -> dict[str, list[object]]:
    return {name: [] for name in ROWS.names}


@dataclass(frozen=True)
class Columns:
    image: str
    caption: str
    id: str

    @classmethod
    def find(cls, row: object, image_key: str | None, caption_key: str | None, id_key: str | None) -> "Columns":
        names = [str(name) for name in _mapping(row)]
        image = _find("image", names, [image_key] if image_key else IMAGE_KEYS)
        caption = _find("caption", names, [caption_key] if caption_key else CAPTION_KEYS)
        return cls(image, caption, _find("id", names, [id_key]) if id_key else ID_KEY)

    def append(self, row: object, rows: dict[str, list[object]]) -> None:
        values = _mapping(row)
        rows["image"].append(_string(values, self.image))
        rows["caption"].append(_captions(values, self.caption))
        key = values.get(self.id)
        rows["image_id"].append(None if key is None or key == "" else encodable(key_string(key)))


def _mapping(row: object) -> Mapping[str, object]:
    if not isinstance(row, Mapping):
        raise ValueError(f"a row must be an object with an image and a caption, not {row!r:.80}")
    return row


def _find(what: str, names: Sequence[str], wanted: Sequence[str]) -> str:
    for name in wanted:
        if name in names:
            return name
    close = [match for name in wanted for match in difflib.get_close_matches(name, names, n=1)]
    hint = f"; the closest is {close[0]!r}" if close else ""
    raise ValueError(
        f"no {what} column: tried {', '.join(map(repr, wanted))} among {', '.join(map(repr, names))}{hint}. "
        f"Name the column with {what}_key"
    )


def _string(row: Mapping[str, object], key: str) -> str:
    value = row.get(key)
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{key!r} must be a non-empty string, not {value!r:.80}")
    return encodable(value)


def _captions(row: Mapping[str, object], key: str) -> list[str]:
    value = row.get(key)
    if isinstance(value, str) and (listed := written_list(value, key)) is not None:
        value = listed
    if not isinstance(value, list):
        return [_string(row, key)]
    if not value:
        raise ValueError(f"{key!r} is an empty list: add a caption or remove the row")
    return [_string({key: caption}, key) for caption in value]


def written_list(text: str, key: str) -> list[str] | None:
    """The captions of a list that is written as text, or None where the text is one caption.

    Raises:
        ValueError: a text that looks like a list of strings and cannot be read as one.
    """
    text = text.strip()
    if text == "[]":
        return []
    if not re.match(r"\[\s*[\"']", text) or not re.search(r"[\"']\s*\]$", text):
        return None
    try:
        found = json.loads(text)
    except json.JSONDecodeError:
        found = _python_list(text)
    if isinstance(found, list) and all(isinstance(caption, str) for caption in found):
        return found
    raise ValueError(f"{key!r} looks like a list of captions, but is no JSON: write it with json.dumps, not {text:.80}")


def _python_list(text: str) -> object:
    """The list that Python printed; None where the text is anything else, such as NumPy's list without commas."""
    try:
        found = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return None
    return found if repr(found) == text else None


def encodable(string: str) -> str:
    """The string, which must be one that UTF-8 can hold: no tokenizer, table or page takes another.

    Raises:
        ValueError: half a character, which JSON escapes may spell.
    """
    if not string.isascii() and any("\ud800" <= letter <= "\udfff" for letter in string):
        raise ValueError(f"{string!r:.80} contains half a character (a lone surrogate): save it as UTF-8")
    return string


def _json(file: Path) -> Numbered:
    try:
        yield from enumerate(_elements(file.read_text(encoding="utf-8-sig")), 1)
    except json.JSONDecodeError as error:
        raise ValueError(f"{file}: broken JSON at line {error.lineno}, column {error.colno}: {error.msg}") from error


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


def _end(match: "re.Match[str] | None") -> int:
    assert match is not None, "the pattern matches the empty string"
    return match.end()


def _json_lines(file: Path) -> Numbered:
    with file.open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                try:
                    yield number, json.loads(line)
                except json.JSONDecodeError as error:
                    where = f"line {number}, column {error.colno}"
                    raise ValueError(f"{file}: broken JSON at {where}: {error.msg}") from error


def _delimited(delimiter: str) -> Callable[[Path], Numbered]:
    def read(file: Path) -> Numbered:
        with file.open(encoding="utf-8-sig", newline="") as lines:
            reader = csv.DictReader(lines, delimiter=delimiter, strict=True)
            number = 2
            try:
                for row in reader:
                    if None in row:
                        raise ValueError(
                            f"{file}, line {number}: more fields than the header has columns; quote the text"
                        )
                    yield number, row
                    number = reader.line_num + 1
            except csv.Error as error:
                raise ValueError(f"{file}, line {number}: {error}; a field with quotes must be quoted") from error

    return read


def _parquet(file: Path) -> Numbered:
    with reading(file, "Parquet file"):
        batches: Iterable[pa.RecordBatch] = pq.ParquetFile(file).iter_batches(batch_size=CHUNK)
        yield from enumerate((row for batch in batches for row in batch.to_pylist()), 1)


READERS: Mapping[str, tuple[Callable[[Path], Numbered], str]] = {
    ".json": (_json, "row"),
    ".jsonl": (_json_lines, "line"),
    ".csv": (_delimited(","), "line"),
    ".tsv": (_delimited("\t"), "line"),
    ".parquet": (_parquet, "row"),
}
