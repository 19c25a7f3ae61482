"""Annotation files of image-caption pairs (readers.py), read row by row into one Arrow table."""

import ast
import difflib
import json
import os
import posixpath
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

from lavis_mafa.data.identity import key_string
from lavis_mafa.data.layouts import layout_hint
from lavis_mafa.data.readers import CHUNK, rows_of
from lavis_mafa.data.rules import MAX_CHARACTERS, encodable, readable

ROWS = pa.schema(
    [
        ("image", pa.large_string()),
        ("caption", pa.large_list(pa.large_string())),
        ("image_id", pa.large_string()),  # null where the annotation has none
    ]
)
FOLDER_KEY = "filepath"  # beside a file's name, as Karpathy has it, the folder of the file; alone, a path
NAME_KEYS = ("file_name", "filename")
IMAGE_KEYS = ("image", *NAME_KEYS, FOLDER_KEY, "path")
CAPTION_KEYS = ("caption", "captions", "text", "title")
ID_KEY = "image_id"  # a plain `id` often numbers the captions (COCO), so it is read only where id_key says so

FilePath = str | os.PathLike[str]


def read_annotations(
    files: FilePath | Sequence[FilePath],
    split: str | None = None,
    longest: int = MAX_CHARACTERS,
    *,
    image_key: str | None = None,
    caption_key: str | None = None,
    id_key: str | None = None,
) -> pa.Table:
    """Rows of one or several annotation files, in order, as a table of schema `ROWS`.

    A row names an image (path below the images' root), one caption or a list of them, and may carry an image id
    (number or string). A list may be written as text, as JSON or as Python prints it: CSV knows no lists. Columns are
    found by their usual names unless a key names them. Of a file that holds several splits (Karpathy's) only the images
    of `split` are read, or all where it is None.
    ValueError, naming file and row: unknown suffix, missing column, broken file, no rows, empty caption, one of more
    than `longest` characters.
    """
    paths = [files] if isinstance(files, (str, os.PathLike)) else list(files)
    if not paths:
        raise ValueError("no annotation file given: name at least one")
    return pa.concat_tables([_read_file(Path(path), split, longest, image_key, caption_key, id_key) for path in paths])


def _read_file(
    file: Path, split: str | None, longest: int, image_key: str | None, caption_key: str | None, id_key: str | None
) -> pa.Table:
    columns: Columns | None = None
    chunks, rows = [], _empty()
    for place, row in rows_of(file, split):
        try:
            columns = columns or Columns.find(row, image_key, caption_key, id_key)
            found = columns.read(row, longest)
        except ValueError as error:
            raise ValueError(f"{file}, {place}: {error}") from None
        for name, value in zip(ROWS.names, found, strict=True):
            rows[name].append(value)
        if len(rows["image"]) == CHUNK:
            chunks.append(pa.table(rows, schema=ROWS))
            rows = _empty()
    if columns is None:
        raise ValueError(f"{file} has no rows: it needs at least one row with an image and a caption")
    return pa.concat_tables([*chunks, pa.table(rows, schema=ROWS)])


def annotated_rows(
    file: Path, image_key: str | None = None, caption_key: str | None = None, id_key: str | None = None
) -> Iterator[tuple[Mapping[str, object], str, str | None, str]]:
    """Every row of a file as read, with image, image id (None without one) and caption column."""
    columns: Columns | None = None
    for _, row in rows_of(file):
        columns = columns or Columns.find(row, image_key, caption_key, id_key)
        values = _mapping(row)
        key = values.get(columns.id)
        yield values, columns.path(values), None if key is None or key == "" else key_string(key), columns.caption


def _empty() -> dict[str, list[object]]:
    return {name: [] for name in ROWS.names}


class Fields(NamedTuple):
    """What a row holds, as in `ROWS`."""

    image: str
    captions: list[str]
    image_id: str | None


@dataclass(frozen=True)
class Columns:
    """The columns of a file. folder: that of the folder which `image` names a file of, if it has one."""

    image: str
    caption: str
    id: str
    folder: str | None = None

    @classmethod
    def find(cls, row: object, image_key: str | None, caption_key: str | None, id_key: str | None) -> "Columns":
        values = _mapping(row)
        image = _find("image", values, [image_key] if image_key else IMAGE_KEYS)
        caption = _find("caption", values, [caption_key] if caption_key else CAPTION_KEYS)
        folder = FOLDER_KEY if image in NAME_KEYS and not image_key and FOLDER_KEY in values else None
        return cls(image, caption, _find("id", values, [id_key]) if id_key else ID_KEY, folder)

    def path(self, values: Mapping[str, object]) -> str:
        """The path of a row's image; ValueError where there is none."""
        name, folder = _string(values, self.image), values.get(self.folder) if self.folder else None
        if not folder or posixpath.basename(str(folder)) == posixpath.basename(name):  # the whole path stands there
            return name if not folder else encodable(str(folder))
        return posixpath.join(encodable(str(folder)), name)

    def read(self, row: object, longest: int = MAX_CHARACTERS) -> Fields:
        """Raises ValueError: no object, an image or a caption that is not text, or a caption that is too long."""
        values = _mapping(row)
        key = values.get(self.id)
        image_id = None if key is None or key == "" else encodable(key_string(key))
        captions = [readable(caption, longest) for caption in _captions(values, self.caption)]
        return Fields(self.path(values), captions, image_id)


def _mapping(row: object) -> Mapping[str, object]:
    if not isinstance(row, Mapping):
        raise ValueError(f"a row must be an object with an image and a caption, not {row!r:.80}")
    return row


def _find(what: str, row: Mapping[str, object], wanted: Sequence[str]) -> str:
    names = [str(name) for name in row]
    for name in wanted:
        if name in names:
            return name
    close = [match for name in wanted for match in difflib.get_close_matches(name, names, n=1)]
    hint = f"; the closest is {close[0]!r}" if close else ""
    raise ValueError(
        f"no {what} column: tried {', '.join(map(repr, wanted))} among {', '.join(map(repr, names))}{hint}. "
        f"Name the column with {what}_key{layout_hint(row)}"
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
    except (json.JSONDecodeError, RecursionError):
        found = _python_list(text)
    if isinstance(found, list) and all(isinstance(caption, str) for caption in found):
        return found
    raise ValueError(f"{key!r} looks like a list of captions, but is no JSON: write it with json.dumps, not {text:.80}")


def _python_list(text: str) -> object:
    """The list that Python printed; None where the text is anything else, such as NumPy's list without commas."""
    try:
        found = ast.literal_eval(text)
    except (ValueError, SyntaxError, RecursionError, MemoryError):  # the last two: nested too deeply
        return None
    return found if repr(found) == text else None
