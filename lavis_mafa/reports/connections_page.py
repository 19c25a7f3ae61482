"""index.html: connections of a run to look at, each image beside its own captions and the one it was connected with."""

import base64
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image

from lavis_mafa.core.artifacts import atomic_write

THUMBNAIL = 320  # px, the longer side
SMALL_THUMBNAIL = 96
# Captions may hold HTML: everything is escaped, whatever the template is called.
PAGES = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


@dataclass(frozen=True)
class ConnectionRow:
    """A connection: `image` (of record `record`) matches `caption` (row `text_row`), says Con-D with P = `p`."""

    image: Image.Image
    own_captions: Sequence[str]
    caption: str
    caption_image: Image.Image | None  # the image that the caption was annotated with
    p: float
    record: int
    text_row: int
    true: bool | None  # whether they do match; None where that is not known


def write_connections_page(folder: str | Path, rows: Iterable[ConnectionRow]) -> Path:
    """Writes `folder`/index.html and returns its path: one file, images inside, for some dozens of connections.

    Rows are shown in the order given. An address may name words to search for: index.html#red%20cube.
    """
    cards = [_card(row) for row in rows]
    page = Path(folder) / "index.html"
    html = PAGES.get_template("connections.html.j2").render(
        cards=cards,
        n_true=sum(card["row"].true is True for card in cards),
        n_known=sum(card["row"].true is not None for card in cards),
    )
    with atomic_write(page) as file:
        file.write(html.encode())
    return page


def _card(row: ConnectionRow) -> dict[str, Any]:
    return {
        "row": row,
        "image": _data_uri(row.image, THUMBNAIL),
        "caption_image": None if row.caption_image is None else _data_uri(row.caption_image, SMALL_THUMBNAIL),
        "pixelated": max(row.image.size) < SMALL_THUMBNAIL,
    }


def _data_uri(image: Image.Image, longest: int) -> str:
    """A thumbnail as a data: address; PNG for tiny rendered images, which JPEG would smear."""
    kind = "png" if max(image.size) < SMALL_THUMBNAIL else "jpeg"
    small = image.convert("RGB")
    small.thumbnail((longest, longest))
    buffer = io.BytesIO()
    small.save(buffer, kind, quality=85)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"
