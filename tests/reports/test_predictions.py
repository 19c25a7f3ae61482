"""The page of predictions."""

from __future__ import annotations

import json
from pathlib import Path

from PIL import Image

from lavis_mafa.reports.predictions import Said, write_predictions

ROWS = [
    Said(0, "a.jpg", "what is <b>this</b>?", "</script>", ["cat", "cat", "dog"], 0.9, "query"),
    Said(1, "a.jpg", "how many?", "2", ["3"], 0.0, "count"),
    Said(2, "b.jpg", "", "a cat", [], None),
]


def test_every_prediction_is_there_and_images_are_shared(tmp_path: Path) -> None:
    opened: list[int] = []

    def open_image(number: int) -> Image.Image:
        opened.append(number)
        return Image.new("RGB", (640, 480))

    page = write_predictions(tmp_path / "page", ROWS, open_image, "Answers <x>")
    assert sorted(opened) == [0, 2]
    data = json.loads((page.parent / "data.js").read_text().removeprefix("window.predictions = ").removesuffix(";\n"))
    assert [row["answer"] for row in data["rows"]] == ["</script>", "2", "a cat"]
    assert set(data["images"]) == {"a.jpg", "b.jpg"}
    assert all((page.parent / address).is_file() for address in data["images"].values())
    html = page.read_text()
    assert "Answers &lt;x&gt;" in html and "<b>this</b>" not in html
    assert "http" not in html.replace("http-equiv", "")


def test_a_page_is_written_anew(tmp_path: Path) -> None:
    for rows in (ROWS, ROWS[:1]):
        page = write_predictions(tmp_path / "page", rows, lambda number: Image.new("RGB", (48, 48)), "x")
    assert len(list((page.parent / "images").iterdir())) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["page"]
