"""The page of predictions."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from html import unescape
from pathlib import Path

import pytest
from PIL import Image

from lavis_mafa.reports.predictions import Prediction, write_predictions
from tests.reports.test_gallery import grey, opened

ROWS = [
    Prediction(0, "a.jpg", "what is <b>this</b>?", "</script>", ["cat", "cat", "dog"], 0.9, "query"),
    Prediction(1, "a.jpg", "how many?", "2", ["3"], 0.0, "count"),
    Prediction(2, "b.jpg", "", "a cat", [], None),
]


def test_every_prediction_is_there_and_images_are_shared(tmp_path: Path) -> None:
    opened: list[int] = []

    def open_image(number: int) -> Image.Image:
        opened.append(number)
        return Image.new("RGB", (640, 480))

    page = write_predictions(tmp_path / "page", ROWS, open_image, "Answers <x>")
    assert sorted(opened) == [0, 2]
    data = json.loads((page.parent / "data.js").read_text().removeprefix("window.gallery = ").removesuffix(";\n"))
    assert [row["verdict"] for row in data["rows"]] == ["right", "wrong", ""]
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


def answers(dom: str) -> list[str]:
    return [unescape(text) for text in re.findall(r'<p class="answer" dir="auto">(.*?)</p>', dom, re.DOTALL) if text]


@pytest.mark.parametrize(
    ("view", "script", "expected"),
    [
        ("", "", ["</script>", "2", "a cat"]),
        ("verdict=wrong", "", ["2"]),
        ("", "document.querySelector('[data-verdict=right]').click()", ["</script>"]),
        ("sort=score", "", ["2", "a cat", "</script>"]),
        ("q=CAT", "", ["</script>", "a cat"]),
        ("q=nobody", "", []),
    ],
)
def test_sorted_filtered_and_searched(
    tmp_path: Path, chromium: Callable[..., str], view: str, script: str, expected: list[str]
) -> None:
    dom = opened(chromium, write_predictions(tmp_path / "page", ROWS, grey, "x"), view, script)
    assert answers(dom) == expected and f"{len(expected)} of 3 shown" in dom
    assert re.findall(r">(all|right|wrong) <small>(\d+)</small>", dom) == [("all", "3"), ("right", "1"), ("wrong", "1")]


def test_a_card_says_all_that_is_known_and_never_as_html(tmp_path: Path, chromium: Callable[..., str]) -> None:
    dom = opened(chromium, write_predictions(tmp_path / "page", ROWS, grey, "x"))
    for text in ("what is &lt;b&gt;this&lt;/b&gt;?", "cat (2) · dog", "verdict 0.90 · query · a.jpg", "b.jpg"):
        assert text in dom
    assert 'class="card right"' in dom and 'src="images/0.png"' in dom


def test_captions_are_neither_right_nor_wrong(tmp_path: Path, chromium: Callable[..., str]) -> None:
    scores = enumerate((0.2, 0.0, 1.5))
    rows = [Prediction(n, f"{n}.jpg", "a photo of", f"caption {n}", ["a cat"], score) for n, score in scores]
    dom = opened(chromium, write_predictions(tmp_path / "page", rows, grey, "x", "CIDEr"), "sort=-score")
    assert answers(dom) == ["caption 2", "caption 0", "caption 1"] and "CIDEr 1.50 · 2.jpg" in dom
    assert "CIDEr, highest first" in dom and not re.search(r'class="card (right|wrong)"|data-verdict="right"', dom)


def test_the_keyboard_and_the_theme(tmp_path: Path, chromium: Callable[..., str]) -> None:
    rows = [Prediction(n, "a.jpg", "what?", f"answer {n}", [], None) for n in range(100)]
    page = write_predictions(tmp_path / "page", rows, grey, "x")
    press = (
        "const press = key => document.activeElement.dispatchEvent(new KeyboardEvent('keydown', {key, bubbles: true}))"
    )
    tell = "document.title = document.activeElement.id || document.activeElement.querySelector('.answer').textContent;"
    assert "<title>answer 1</title>" in opened(chromium, page, "", f"{press}; 'jjjk'.split('').forEach(press); {tell}")
    assert "<title>query</title>" in opened(chromium, page, "", f"{press}; press('/'); {tell}")
    dom = opened(chromium, page, "", f"{press}; 'nnnnp'.split('').forEach(press); byId('theme').click();")
    assert "page 2 of 3" in dom and answers(dom)[0] == "answer 48" and "data-theme=" in dom
