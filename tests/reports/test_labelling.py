"""The labelling page in a real browser: keys, buttons, undo, what is kept, and the round trip to read_review."""

from __future__ import annotations

import html
import json
import re
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from lavis_mafa.mining.review import reviewed_pairs, write_review
from lavis_mafa.reports.gallery import GalleryRow
from lavis_mafa.reports.labelling import write_labelling

HOSTILE = '</script><img src=x onerror=\'document.title = "broken in"\'> "a",\n& b\u2028'
CAPTIONS = ["a red ball", HOSTILE, "=1+1, a cube", "two discs", "ein grüner Würfel"]
RECORDS = [1, 0, 1, 2, 0]
PRESS = "const press = key => document.activeElement.dispatchEvent(new KeyboardEvent('keydown', {key, bubbles: true}));"
TELL = "document.body.append(Object.assign(document.createElement('pre'), {id: 'told', textContent: %s}));"


def grey(record: int) -> Image.Image:
    return Image.new("RGB", (48, 48), "grey")


def row(record: int, caption: str) -> GalleryRow:
    return GalleryRow(record, 0, caption, ["a red cube"], None, 0.93125, similarity=0.25, path=f"{record}.png")


@pytest.fixture
def review(tmp_path: Path) -> Path:
    path = tmp_path / "review.csv"
    images = [f"{record}.png" for record in RECORDS]
    columns = {"image": images, "caption": CAPTIONS, "p": 0.93125, "weight": 2.5, "above": -1.0000001192092896}
    write_review(path, pd.DataFrame(columns))
    return path


@pytest.fixture
def page(tmp_path: Path, review: Path) -> Path:
    rows = [row(record, caption) for record, caption in zip(RECORDS, CAPTIONS, strict=True)]
    return write_labelling(tmp_path / "review", review, rows, grey, "Label pairs")


def used(chromium: Callable[..., str], page: Path, script: str, told: str) -> str:
    """What the page's script finds for `told` after `script`, as a visitor would, has used it."""
    copy = page.with_name("used.html")
    added = f"<script>{PRESS} {script}; {TELL % told}</script></body>"
    first = page.read_text(encoding="utf-8").replace("<head>", "<head><script>localStorage.clear()</script>")
    copy.write_text(first.replace("</body>", added), encoding="utf-8")
    dom = chromium("--dump-dom", copy.as_uri())
    found = re.search(r'<pre id="told">(.*?)</pre>', dom, re.DOTALL)
    assert found is not None, dom[-2000:]
    return html.unescape(found[1])


def keys(pressed: str) -> str:
    return f"{json.dumps(pressed)}.split('').forEach(press)"


def test_pairs_of_one_image_share_a_card(chromium: Callable[..., str], page: Path) -> None:
    assert sorted(path.name for path in (page.parent / "images").iterdir()) == ["0.png", "1.png", "2.png"]
    told = "[...document.querySelectorAll('.card')].map(card => card.querySelectorAll('.pair').length).join(' ')"
    assert used(chromium, page, "", told) == "2 2 1"
    assert not re.search(r"https?://|@import|url\(", page.read_text(encoding="utf-8"))


def test_an_equal_file_comes_back_unlabelled(chromium: Callable[..., str], page: Path, review: Path) -> None:
    assert used(chromium, page, "", "csv()") == review.read_text(encoding="utf-8")


def test_keys_label_and_go_on_to_the_next_open_pair(chromium: Callable[..., str], page: Path) -> None:
    # the first key goes to the first pair; cards are of records 1, 0, 2: lines 0 2, 1 4, 3
    assert json.loads(used(chromium, page, keys("jynuy"), "JSON.stringify(labels)")) == {
        "0": "1", "2": "0", "1": "?", "4": "1",
    }  # fmt: skip
    assert used(chromium, page, keys("jynuy"), "document.activeElement.dataset.line") == "3"
    assert used(chromium, page, keys("jynuy"), "byId('progress').value") == "3 of 5 labelled, 1 unsure"


def test_undo_takes_answers_back_one_by_one(chromium: Callable[..., str], page: Path) -> None:
    told = "JSON.stringify([labels, document.activeElement.dataset.line, byId('undo').disabled])"
    assert json.loads(used(chromium, page, keys("jynz"), told)) == [{"0": "1"}, "2", False]
    assert json.loads(used(chromium, page, keys("jynzzz"), told)) == [{}, "0", True]
    changed = (
        f"{keys('jy')}; document.querySelector('[data-line=\"0\"] [data-label=\"0\"]').click(); byId('undo').click()"
    )
    assert json.loads(used(chromium, page, changed, told))[0] == {"0": "1"}


def test_undo_finds_a_pair_that_a_search_hides(chromium: Callable[..., str], page: Path) -> None:
    script = f"{keys('jy')}; change({{ q: 'discs' }}); undo()"
    assert used(chromium, page, script, "document.activeElement.dataset.line + query.value") == "0"


def test_why_is_shown_on_demand(chromium: Callable[..., str], page: Path) -> None:
    """Not before: the judge's P(match) would sway who answers."""
    told = "[...document.querySelectorAll('details')].filter(why => why.open).map(why => why.innerText).join()"
    assert used(chromium, page, "", told) == ""
    why = used(chromium, page, keys("jw"), told)
    assert "P(match) is 0.931, the similarity 0.250" in why
    assert "shares most words (50 %): a red cube" in why


def test_captions_are_text_and_never_html(chromium: Callable[..., str], page: Path) -> None:
    told = "document.title + [...document.querySelectorAll('.caption')][2].textContent"
    assert used(chromium, page, "", told) == f"Label pairs{HOSTILE}"


def test_many_images_are_labelled_across_pages(chromium: Callable[..., str], tmp_path: Path) -> None:
    path = tmp_path / "many.csv"
    write_review(path, pd.DataFrame({"image": [f"{n}.png" for n in range(200)], "caption": "a ball"}))
    rows = [replace(row(0, "a ball"), record=n) for n in range(200)]
    many = write_labelling(tmp_path / "many", path, rows, lambda record: grey(0).resize((8, 8)), "Label pairs")
    at = "state.page, document.activeElement.dataset.line, byId('progress').value, grid.children.length"
    told = f"JSON.stringify([{at}])"
    assert json.loads(used(chromium, many, keys("j" + 48 * "y"), told)) == [2, "48", "48 of 200 labelled", 48]


def test_labels_outlive_the_browser_and_reach_read_review(driver: Any, page: Path, tmp_path: Path) -> None:
    """By buttons and keys, a reload, and a real download."""
    driver("url", url=page.as_uri())
    driver("execute/sync", script='grid.querySelector(\'[data-line="0"] [data-label="1"]\').click()', args=[])
    body = driver("element", using="css selector", value='[data-line="1"]')
    driver("execute/sync", script="grid.querySelector('[data-line=\"1\"]').focus()", args=[])
    driver(f"element/{next(iter(body.values()))}/value", text="nu")
    driver("refresh")
    driver("execute/sync", script="byId('download').click()", args=[])
    saved = tmp_path / "downloads" / "review.csv"
    for _ in range(100):
        if saved.exists():
            break
        time.sleep(0.1)
    table = SimpleNamespace(images=SimpleNamespace(to_pylist=lambda: [f"{n}.png" for n in range(3)]))
    found = reviewed_pairs(saved, table)  # type: ignore[arg-type]
    assert found["record"].tolist() == [1, 0] and found["caption"].tolist() == CAPTIONS[:2]
    assert found["match"].tolist() == [True, False]
    assert np.allclose(found["weight"], 2.5 * 5 / 2) and (found["above"] == -1.0000001192092896).all()


def test_a_caption_may_be_of_any_length(tmp_path: Path) -> None:
    path, caption = tmp_path / "review.csv", "a ball\r and " * 20_000
    write_review(path, pd.DataFrame({"image": ["0.png"], "caption": caption}))
    page = write_labelling(tmp_path / "review", path, [row(0, caption)], grey, "Label pairs")
    data = json.loads((page.parent / "data.js").read_text().removeprefix("window.gallery = ").rstrip(";\n"))
    assert data["rows"][0]["pairs"][0]["cells"] == ["", "0.png", caption]
