"""A static page of image-caption pairs with their scores, to sort, filter and search. No network, no server.

index.html shows a page of cards at a time from data.js, so that ten thousand pairs open as quickly as ten.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TypeVar

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image

from lavis_mafa.common.artifacts import atomic_folder

THUMBNAIL = 320  # px, the longer side
SMALL = 96  # px: images below are rendered ones, which JPEG and smoothing would smear
VERDICTS = ("connection", "ambiguous", "negative", "suspect")
# Captions may hold HTML: the template escapes, and the page's script writes them as text alone.
PAGES = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)

Name = TypeVar("Name", int, str)  # of a thumbnail
OpenImage = Callable[[int], Image.Image]  # record → image


@dataclass(frozen=True)
class GalleryRow:
    """The image of `record` and `caption` (row `text_row`), with Con-D's verdict.

    verdict: one of VERDICTS; a suspect is an annotated pair that Con-D doubts. caption_record: the record that the
    caption was annotated with, None if it is this one. similarity: of ITC, None if not known. path, image_id: as
    annotated. true: whether they match, None if not known. own_more: how many captions of the image are left out.
    """

    record: int
    text_row: int
    caption: str
    own_captions: Sequence[str]
    own_more: int = field(default=0, kw_only=True)
    caption_record: int | None
    p: float
    verdict: str = "connection"
    similarity: float | None = None
    path: str = ""
    image_id: str = ""
    true: bool | None = None


def write_gallery(
    folder: str | Path,
    rows: Iterable[GalleryRow],
    open_image: OpenImage,
    title: str = "Connections",
    note: str = "",
    totals: Mapping[str, int] | None = None,
) -> Path:
    """Writes the folder anew and returns its index.html; rows are shown in the order given until a visitor sorts them.

    note: a sentence below the title, for example about rows that are left out. totals: how many there are of each
    verdict, where `rows` are a part of them.
    An address names a view: index.html#q=red+cube&verdict=ambiguous&sort=-similarity&page=2.
    """
    rows = list(rows)
    counts = {verdict: sum(row.verdict == verdict for row in rows) for verdict in VERDICTS}
    return write_page(
        Path(folder),
        "gallery.html.j2",
        [_plain(row) for row in rows],
        {record: record for record in _records(rows)},
        open_image,
        title=title,
        searched="captions and paths",
        note=note,
        counts={verdict: count for verdict, count in counts.items() if count},
        totals={verdict: max(count, (totals or {}).get(verdict, 0)) for verdict, count in counts.items()},
        n_true=sum(row.true is True for row in rows if row.verdict == "connection"),
        n_known=sum(row.true is not None for row in rows if row.verdict == "connection"),
        has_similarity=any(row.similarity is not None for row in rows),
    )


def write_page(
    folder: Path,
    template: str,
    rows: Sequence[Mapping[str, object]],
    images: Mapping[Name, int],
    open_image: OpenImage,
    **facts: object,
) -> Path:
    """Writes the folder anew and returns its index.html.

    rows: what data.js has of each. images: a thumbnail's name in the rows → the record that is opened for it.
    facts: what the template asks for.
    """
    with atomic_folder(folder) as new:
        (new / "images").mkdir()
        shown = {name: _thumbnail(open_image(record), new, record) for name, record in images.items()}
        # ASCII alone: a caption may hold characters that end a line in JavaScript
        data = json.dumps({"images": shown, "rows": rows})
        (new / "data.js").write_text(f"window.gallery = {data};\n", encoding="ascii")
        html = PAGES.get_template(template).render(n=len(rows), **facts)
        (new / "index.html").write_text(html, encoding="utf-8")
    return folder / "index.html"


def _records(rows: Sequence[GalleryRow]) -> list[int]:
    shown = {row.record for row in rows} | {row.caption_record for row in rows if row.caption_record is not None}
    return sorted(shown)


def _thumbnail(image: Image.Image, folder: Path, record: int) -> str:
    """Writes a thumbnail and returns its address below the folder."""
    kind = "png" if max(image.size) < SMALL else "jpg"
    address = f"images/{record}.{kind}"
    small = image.convert("RGB")
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    small.save(folder / address, quality=85)
    return address


def _plain(row: GalleryRow) -> dict[str, object]:
    """A row without unknown fields; scores are rounded."""
    values = {name: value for name, value in asdict(row).items() if value not in (None, "")}
    return values | {name: round(values[name], 6) for name in ("p", "similarity") if name in values}
