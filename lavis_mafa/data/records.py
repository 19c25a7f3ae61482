"""RecordTable: images with their captions, in columns, for millions of records.

Symbols: N records, C captions, R annotation rows.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property, partial

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from lavis_mafa.common.hashing import digest_of
from lavis_mafa.data.annotations import ROWS
from lavis_mafa.data.identity import check_collisions, clean_path, image_id, normalised, text_id
from lavis_mafa.data.images import Roots, relative_path

Ints = NDArray[np.int64]
TextProcessor = Callable[[str], str]


@dataclass(frozen=True, eq=False)
class RecordTable:
    """N records of one image each, with C captions in all; a record's captions lie side by side.

    images: (N,) relative paths; image_id: (N,) int64; annotated_id: (N,) the id the annotation gave, null without one;
    offsets: (N+1,) int64, record i owns the caption rows offsets[i]:offsets[i+1];
    captions: (C,) raw; text_id: (C,) int64, equal where a model that reads them through text_processor sees one text.
    """

    images: pa.Array
    image_id: Ints
    annotated_id: pa.Array
    offsets: Ints
    captions: pa.Array
    text_id: Ints
    text_processor: TextProcessor = str

    @classmethod
    def from_rows(
        cls, rows: pa.Table, dataset: str, one_caption_a_record: bool = False, root: Roots = ()
    ) -> "RecordTable":
        """Gather annotation rows (`annotations.ROWS`; image_id may be absent) into records.

        Rows of one image id, or of one path where there is no id, become one record, in order of first appearance. A
        caption an image repeats is kept once. With `one_caption_a_record` each caption is a record, in the order of the
        rows, and the records of one image share its image_id. `dataset` names the space in which image ids are unique.
        A file that stands under several ids is one image, that of its first row. `root`: the image folder or folders,
        below which absolute paths lie.
        ValueError: no rows, one image id with two images, an image without captions, an id collision, a path outside.
        """
        if not rows.num_rows:
            raise ValueError("no rows: a record table needs at least one image with a caption")
        image_R, caption_R, annotated_R = _columns(rows, root)
        image_id_R = _hashed(*_distinct(pc.coalesce(annotated_R, image_R)), lambda key: image_id(dataset, key), str)
        first_N, record_R = _groups(image_id_R)
        _check_one_image_an_id(image_R, annotated_R, first_N[record_R])
        image_id_R = _one_id_an_image(image_R, image_id_R)
        first_N, record_R = _groups(image_id_R)

        captions, caption_code_C = _distinct(pc.list_flatten(caption_R))
        record_C = record_R[pc.list_parent_indices(caption_R).to_numpy()]
        kept_C = np.flatnonzero(~pd.DataFrame({"record": record_C, "caption": caption_code_C}).duplicated().to_numpy())
        if not one_caption_a_record:
            kept_C = kept_C[np.argsort(record_C[kept_C], kind="stable")]
        record_C, caption_code_C = record_C[kept_C], caption_code_C[kept_C]
        counts_N = np.bincount(record_C, minlength=len(first_N))
        if not counts_N.all():
            image = image_R[int(first_N[counts_N.argmin()])].as_py()
            raise ValueError(f"image {image!r} has no caption: remove the row")
        if one_caption_a_record:
            first_N, counts_N = first_N[record_C], np.ones_like(record_C)
        return cls(
            images=image_R.take(pa.array(first_N)),
            image_id=image_id_R[first_N],
            annotated_id=annotated_R.take(pa.array(first_N)),
            offsets=np.concatenate([[0], np.cumsum(counts_N)]).astype(np.int64),
            captions=captions.take(pa.array(caption_code_C)),
            text_id=_hashed(captions, caption_code_C, text_id, normalised),
        )

    def read_through(self, text_processor: TextProcessor) -> "RecordTable":
        """The same records as a model sees them: captions that its text processor makes equal have one text id."""
        captions, code_C = _distinct(self.captions)
        read = dict(zip(captions.to_pylist(), map(text_processor, captions.to_pylist()), strict=True))
        ids = _hashed(
            captions, code_C, lambda caption: text_id(read[caption]), lambda caption: normalised(read[caption])
        )
        return replace(self, text_id=ids, text_processor=text_processor)

    def text_id_of(self, caption: str) -> int:
        """The text id of any raw caption."""
        return text_id(self.text_processor(caption))

    @property
    def n_records(self) -> int:
        return len(self.image_id)

    @property
    def n_captions(self) -> int:
        return len(self.text_id)

    def image(self, record: int) -> str:
        """Relative path of the record's image."""
        return str(self.images[record].as_py())

    def caption(self, row: int) -> str:
        """The raw caption of a caption row (0..C-1)."""
        return str(self.captions[row].as_py())

    def caption_rows(self, record: int) -> range:
        """The caption rows of a record."""
        return range(int(self.offsets[record]), int(self.offsets[record + 1]))

    def first_captions(self) -> "RecordTable":
        """The same records, each with its first caption alone."""
        first_N = self.offsets[:-1]
        captions, offsets = self.captions.take(pa.array(first_N)), np.arange(self.n_records + 1)
        return replace(self, offsets=offsets, captions=captions, text_id=self.text_id[first_N])

    @cached_property
    def record_of_caption(self) -> Ints:
        """(C,) the record of every caption row."""
        return np.repeat(np.arange(self.n_records), np.diff(self.offsets))

    @cached_property
    def fingerprint(self) -> str:
        """Hex hash of the content: order, images, ids and captions to the letter."""
        return digest_of(self._parts())

    def _parts(self) -> Iterator[object]:
        yield from (self.image_id, self.offsets)
        for strings in (self.images, self.captions):
            yield pc.binary_length(strings).to_numpy().astype(np.int64)
            for start in range(0, len(strings), 65_536):
                yield "".join(strings.slice(start, 65_536).to_pylist())


def _columns(rows: pa.Table, root: Roots) -> tuple[pa.Array, pa.Array, pa.Array]:
    """Images (R,) in one spelling, caption lists (R,) and annotated ids (R,), null where there is none."""
    if "image_id" not in rows.column_names:
        rows = rows.append_column("image_id", pa.nulls(rows.num_rows))
    one_chunk = rows.select(ROWS.names).cast(ROWS).combine_chunks()
    image_R, caption_R, annotated_R = (column.chunk(0) for column in one_chunk.columns)
    paths, path_R = _distinct(image_R)
    spelled = partial(relative_path, root) if root else clean_path
    cleaned = pa.array([spelled(path) for path in paths.to_pylist()], pa.large_string())
    return cleaned.take(pa.array(path_R)), caption_R, annotated_R


def _distinct(strings: pa.Array) -> tuple[pa.Array, Ints]:
    """The distinct strings, and for every string its place among them."""
    encoded = strings.dictionary_encode()
    return encoded.dictionary, encoded.indices.to_numpy().astype(np.int64)


def _hashed(strings: pa.Array, code: Ints, hash_of: Callable[[str], int], hashed_form: Callable[[str], str]) -> Ints:
    """Ids of strings[code]: each distinct string is hashed once, and checked for collisions."""
    ids = np.fromiter((hash_of(string.as_py()) for string in strings), np.int64, len(strings))
    check_collisions(ids, lambda at: hashed_form(strings[at].as_py()))
    return ids[code]


def _groups(ids: Ints) -> tuple[Ints, Ints]:
    """The first row of every distinct id, in order of appearance, and each row's place in that order."""
    code, _ = pd.factorize(ids)
    return np.unique(code, return_index=True)[1].astype(np.int64), code.astype(np.int64)


def _one_id_an_image(image_R: pa.Array, image_id_R: Ints) -> Ints:
    """(R,) each row's id, which is that of the first row of its image: a file under several ids is one image."""
    first_U, image_at_R = _groups(_distinct(image_R)[1])
    ids: Ints = image_id_R[first_U[image_at_R]]
    return ids


def _check_one_image_an_id(image_R: pa.Array, annotated_R: pa.Array, first_R: Ints) -> None:
    other_R = image_R.take(pa.array(first_R))
    differs = np.flatnonzero(pc.not_equal(image_R, other_R).to_numpy(zero_copy_only=False))
    if len(differs):
        row = int(differs[0])
        raise ValueError(
            f"image id {annotated_R[row].as_py()!r} belongs to two images, {other_R[row].as_py()!r} and "
            f"{image_R[row].as_py()!r}: give each its own id, or remove the ids"
        )
