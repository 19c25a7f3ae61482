import re
from collections.abc import Callable
from html import unescape
from pathlib import Path
from urllib.parse import quote

import pytest
from PIL import Image

from lavis_mafa.reports.connections_page import ConnectionRow, write_connections_page

HOSTILE = (
    """<script>document.title = "broken in"</script><img src=x onerror='document.title = "broken in"'> "a" & 'b'"""
)


def row(caption: str, own: str = "a grey square", true: bool | None = None, size: int = 48) -> ConnectionRow:
    image = Image.new("RGB", (size, size), "grey")
    return ConnectionRow(image, [own], caption, image, p=0.9312, record=7, text_row=1234, true=true)


@pytest.fixture
def page(tmp_path: Path) -> Path:
    """Three connections: two red ones, of which one is true and one false, and one whose captions are an attack."""
    rows = [row("a red ball", true=True), row("A small RED cube", true=False), row(HOSTILE, own=HOSTILE)]
    return write_connections_page(tmp_path / "page", rows)


def captions(html: str) -> list[str]:
    return [unescape(text) for text in re.findall(r'class="caption" dir="auto"[^>]*>(.*?)</', html)]


def test_the_page_holds_every_row_and_what_is_known_of_it(page: Path) -> None:
    html = page.read_text(encoding="utf-8")
    assert html.count('<li class="card"') == 3
    assert captions(html)[:4] == ["a grey square", "a red ball", "a grey square", "A small RED cube"]
    assert html.count("P(match) 0.931") == html.count("record 7 · caption 1234") == 3
    assert (html.count("✓ true"), html.count("✗ false")) == (1, 1)
    assert "1 of the 2 whose truth is known are true" in html


def test_the_page_is_one_file_that_asks_for_nothing_else(page: Path) -> None:
    html = page.read_text(encoding="utf-8")
    assert [path.name for path in page.parent.iterdir()] == ["index.html"]
    sources = re.findall(r'(?:src|href)="([^"]*)"', html)
    assert len(sources) == 6 and all(source.startswith("data:image/") for source in sources)
    assert "url(" not in html and "@import" not in html


def test_captions_are_text_and_never_html(page: Path) -> None:
    html = page.read_text(encoding="utf-8")
    assert html.count("<script>") == 1  # the page's own
    assert "<img src=x" not in html
    assert captions(html)[4:] == [HOSTILE, HOSTILE]


def test_a_row_without_truth_or_second_image_shows_neither(tmp_path: Path) -> None:
    image = Image.new("L", (500, 400))
    page = write_connections_page(tmp_path, [ConnectionRow(image, [], "a ball", None, 0.9, 0, 0, None)])
    html = page.read_text(encoding="utf-8")
    assert html.count("<img") == 1 and "truth is known" not in html and "✓" not in html and "✗" not in html


def test_photographs_are_shrunk(tmp_path: Path) -> None:
    noise = Image.effect_noise((1600, 1200), 80)
    page = write_connections_page(tmp_path, [ConnectionRow(noise, ["a"], "b", noise, 0.9, 0, 0, True)])
    assert page.stat().st_size < 120_000


def test_an_empty_run_gives_a_page_too(tmp_path: Path) -> None:
    assert "<h1>0 connections</h1>" in write_connections_page(tmp_path, []).read_text(encoding="utf-8")


@pytest.mark.parametrize(("words", "shown"), [("red", [0, 1]), ("grey CUBE", [1]), ("blue", [])])
def test_the_browser_shows_the_cards_that_hold_all_words(
    page: Path, chromium: Callable[..., str], words: str, shown: list[int]
) -> None:
    dom = chromium("--dump-dom", f"{page.as_uri()}#{quote(words)}")
    cards = re.findall(r'<li class="card"[^>]*>', dom)
    assert [number for number, card in enumerate(cards) if "hidden" not in card] == shown
    assert f"{len(shown)} of 3 shown" in dom


def test_the_browser_runs_no_script_of_a_caption(page: Path, chromium: Callable[..., str]) -> None:
    dom = chromium("--dump-dom", page.as_uri())
    assert "<title>3 connections</title>" in dom
    assert "3 of 3 shown" in dom  # the page's own script did run


def test_the_browser_draws_light_and_dark(page: Path, chromium: Callable[..., str], tmp_path: Path) -> None:
    corners = {}
    for name, scheme in (("dark", 0), ("light", 1)):
        picture = tmp_path / f"{name}.png"
        chromium(f"--blink-settings=preferredColorScheme={scheme}", f"--screenshot={picture}", page.as_uri())
        corners[name] = sum(Image.open(picture).convert("RGB").getpixel((2, 2)))  # type: ignore[arg-type]
    assert corners["dark"] < 150 and corners["light"] > 600
