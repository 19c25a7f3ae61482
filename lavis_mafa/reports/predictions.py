"""A page to browse what a language model said about images, in the gallery's style. No network, no server."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from PIL import Image

from lavis_mafa.core.artifacts import atomic_folder
from lavis_mafa.reports.gallery import PAGES, thumbnail


@dataclass(frozen=True)
class Said:
    """`number`: of the sample whose image is shown; `truth`: known answers or captions; `verdict` in [0, 1] or None."""

    number: int
    image: str
    question: str
    answer: str
    truth: list[str]
    verdict: float | None = None
    kind: str = ""


def write_predictions(
    folder: str | Path, rows: Iterable[Said], open_image: Callable[[int], Image.Image], title: str
) -> Path:
    """Writes the folder anew and returns its index.html; samples of one image (`Said.image`) share a thumbnail."""
    folder, rows = Path(folder), list(rows)
    with atomic_folder(folder) as new:
        (new / "images").mkdir()
        first = {row.image: row.number for row in reversed(rows)}
        images = {image: thumbnail(open_image(number), new, number) for image, number in first.items()}
        data = {"images": images, "rows": [asdict(row) for row in rows]}
        # ASCII alone: an answer may hold characters that end a line in JavaScript
        (new / "data.js").write_text(f"window.predictions = {json.dumps(data)};\n", encoding="ascii")
        html = PAGES.get_template("predictions.html.j2").render(title=title, n=len(rows))
        (new / "index.html").write_text(html, encoding="utf-8")
    return folder / "index.html"
