"""The annotation file with the connections as further captions, in the format it came in.

Tested in tests/mining/test_annotate.py.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from lavis_mafa.common.artifacts import atomic_write, json_bytes
from lavis_mafa.data.annotations import annotated_rows, written_list
from lavis_mafa.data.identity import clean_path, image_id
from lavis_mafa.data.images import Roots, relative_path
from lavis_mafa.data.layouts import add_captions
from lavis_mafa.data.readers import CHUNK, layout_of

Row = Mapping[str, object]
Rows = Iterator[Row]


def write_connected(
    source: Path,
    target: Path,
    captions_of: dict[int, list[str]],
    dataset: str,
    columns: Mapping[str, str | None],
    root: Roots = (),
) -> int:
    """Copy an annotation with an image's connections after its first row, or in it where captions are lists.

    Args:
        source: the annotation.
        target: the file to write.
        captions_of: image_id → connected captions; images met are taken out, so that a further file does not repeat
            them.
        dataset, columns, root: as the data set was read.

    Returns:
        How many captions were added.
    """
    added = 0

    def new_captions(path: str, key: str | None) -> list[str]:
        spelled = relative_path(root, path) if root else clean_path(path)
        return captions_of.pop(image_id(dataset, key if key is not None else spelled), [])

    if layout := layout_of(source):
        added = add_captions(layout, new_captions)
        with atomic_write(target) as file:
            file.write(json_bytes(layout))
        return added

    def connected() -> Rows:
        nonlocal added
        for row, path, key, caption_column in annotated_rows(source, **columns):
            captions = new_captions(path, key)
            added += len(captions)
            own = row[caption_column]
            if isinstance(own, list):
                yield {**row, caption_column: [*own, *captions]}
                continue
            if listed := written_list(str(own), caption_column):
                yield {**row, caption_column: json.dumps([*listed, *captions], ensure_ascii=False)}
                continue
            yield row
            yield from ({**row, caption_column: caption} for caption in captions)

    with atomic_write(target) as file:
        WRITERS[source.suffix.lower()](file, connected(), source)
    return added


def _json(file: BinaryIO, rows: Rows, source: Path) -> None:
    separator = b"[\n"
    for row in rows:
        file.write(separator + json_bytes(row))
        separator = b",\n"
    file.write(b"\n]\n")


def _json_lines(file: BinaryIO, rows: Rows, source: Path) -> None:
    for row in rows:
        file.write(json_bytes(row) + b"\n")


def _delimited(delimiter: str) -> Callable[[BinaryIO, Rows, Path], None]:
    def write(file: BinaryIO, rows: Rows, source: Path) -> None:
        text = io.TextIOWrapper(file, encoding="utf-8", newline="", write_through=True)
        with source.open("rb") as lines:
            ends = "\r\n" if lines.readline().endswith(b"\r\n") else "\n"
        writer: csv.DictWriter[str] | None = None
        for row in rows:
            if writer is None:
                writer = csv.DictWriter(text, list(row), delimiter=delimiter, lineterminator=ends)
                writer.writeheader()
            writer.writerow(row)
        text.detach()

    return write


def _parquet(file: BinaryIO, rows: Rows, source: Path) -> None:
    schema = pq.read_schema(source)
    with pq.ParquetWriter(file, schema) as writer:
        for chunk in _chunks(rows):
            writer.write_table(pa.Table.from_pylist([dict(row) for row in chunk], schema=schema))


def _chunks(rows: Iterable[Row]) -> Iterator[Sequence[Row]]:
    chunk: list[Row] = []
    for row in rows:
        chunk.append(row)
        if len(chunk) == CHUNK:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


WRITERS: Mapping[str, Callable[[BinaryIO, Rows, Path], None]] = {
    ".json": _json,
    ".jsonl": _json_lines,
    ".csv": _delimited(","),
    ".tsv": _delimited("\t"),
    ".parquet": _parquet,
}
