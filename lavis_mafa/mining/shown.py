"""A pair as the gallery shows it."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypedDict

from lavis_mafa.data.records import RecordTable
from lavis_mafa.reports.gallery import GalleryRow

if TYPE_CHECKING:
    from typing_extensions import Required, Unpack

OWN_SHOWN = 10  # captions of an image beside each


class Known(TypedDict, total=False):
    """What a gallery shows of a pair beside its image and caption (GalleryRow)."""

    p: Required[float]
    verdict: str
    similarity: float | None
    true: bool | None


def gallery_row(table: RecordTable, record: int, text_row: int, **known: Unpack[Known]) -> GalleryRow:
    """A pair as the gallery shows it, with what is `known` of it."""
    other, own = int(table.record_of_caption[text_row]), table.caption_rows(record)
    return GalleryRow(
        record=record,
        text_row=text_row,
        caption=table.caption(text_row),
        own_captions=[table.caption(row) for row in own[:OWN_SHOWN]],
        own_more=max(len(own) - OWN_SHOWN, 0),
        caption_record=other if other != record else None,
        path=table.image(record),
        image_id=table.annotated_id[record].as_py() or "",
        **known,
    )
