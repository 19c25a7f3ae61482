import re
from collections.abc import Callable
from dataclasses import replace
from html import unescape
from pathlib import Path

import pytest
from PIL import Image

from lavis_mafa.reports.gallery import GalleryRow, write_gallery

HOSTILE = (
    """</script><script>document.title = "broken in"</script>"""
    """<img src=x onerror='document.title = "broken in"'> "a" & 'b'\u2028"""
)
ROW = GalleryRow(
    7, 1234, "a red ball", ["a grey square"], 8, 0.9312, similarity=0.25, path="dir/7.jpg", image_id="seven", true=True
)
ROWS = [
    ROW,
    replace(ROW, record=8, caption="A small RED cube", p=0.99, similarity=0.1, true=False, caption_record=None),
    replace(ROW, record=9, caption=HOSTILE, own_captions=[HOSTILE], path=HOSTILE, p=0.85, similarity=None, true=None),
    replace(ROW, record=3, caption="a blue disc", p=0.6, verdict="ambiguous", true=None),
    replace(ROW, record=2, caption="a green disc", p=0.1, verdict="suspect", true=None),
]


def grey(record: int, size: int = 48) -> Image.Image:
    return Image.new("RGB", (size, size), "grey")


@pytest.fixture
def page(tmp_path: Path) -> Path:
    return write_gallery(tmp_path / "gallery", ROWS, grey)


def opened(chromium: Callable[..., str], page: Path, view: str = "", script: str = "") -> str:
    """The page after `script` has used it, as a visitor would."""
    used = page.with_name("used.html")
    used.write_text(
        page.read_text(encoding="utf-8").replace("</body>", f"<script>{script}</script></body>"), encoding="utf-8"
    )
    return chromium("--dump-dom", f"{used.as_uri()}#{view}")


def connected(dom: str) -> list[str]:
    return [unescape(text) for text in re.findall(r'<p class="caption" dir="auto">(.*?)</p>', dom, re.DOTALL) if text]


RED, CUBE, HOST, BLUE, GREEN = (row.caption for row in ROWS)


def test_the_folder_needs_nothing_else(page: Path) -> None:
    html, data = page.read_text(encoding="utf-8"), (page.parent / "data.js").read_text(encoding="ascii")
    files = {path.relative_to(page.parent).as_posix() for path in page.parent.rglob("*") if path.is_file()}
    assert files == {".lavis_mafa", "index.html", "data.js", *(f"images/{n}.png" for n in (2, 3, 7, 8, 9))}
    assert not re.search(r"https?://|@import|url\(", html + data)
    assert "1 of the 2 connections whose truth is known are true" in html
    assert [path.name for path in page.parent.parent.iterdir()] == ["gallery"]


def test_a_second_run_replaces_the_whole_folder(page: Path) -> None:
    write_gallery(page.parent, ROWS[:1], grey)
    assert sorted(path.name for path in (page.parent / "images").iterdir()) == ["7.png", "8.png"]
    assert [path.name for path in page.parent.parent.iterdir()] == ["gallery"]


def test_an_image_that_cannot_be_read_leaves_the_old_gallery(page: Path) -> None:
    def broken(record: int) -> Image.Image:
        raise ValueError("image 7 cannot be read")

    with pytest.raises(ValueError, match="image 7"):
        write_gallery(page.parent, ROWS, broken)
    assert page.exists() and [path.name for path in page.parent.parent.iterdir()] == ["gallery"]


def test_counts_say_of_how_many_the_shown_ones_are(tmp_path: Path) -> None:
    page = write_gallery(tmp_path / "g", ROWS, grey, totals={"connection": 29_250, "ambiguous": 1})
    counts = dict(re.findall(r'data-verdict="(\w+)"[^>]*>\w+ <small>(.*?)</small>', page.read_text(encoding="utf-8")))
    assert counts == {"connection": "3 of 29,250", "ambiguous": "1", "suspect": "1"}


@pytest.mark.parametrize(("width", "height"), [(500, 844), (1200, 900)])
def test_on_a_phone_the_bar_leaves_the_screen_to_the_cards(
    page: Path, chromium: Callable[..., str], width: int, height: int
) -> None:
    """At first, and once its button has opened it; a wide screen shows all of it at once."""
    measure = (
        "const bar = document.querySelector('.bar'), seen = () => [...bar.querySelectorAll('button, select, input')]"
        ".filter(part => part.offsetParent).length, before = [bar.offsetHeight / innerHeight, seen()];"
        "byId('fold').click(); document.title = [...before, seen(), innerWidth, byId('fold').ariaExpanded].join(' ');"
    )
    used = page.with_name("used.html")
    html = page.read_text(encoding="utf-8").replace("</body>", f"<script>{measure}</script></body>")
    used.write_text(html, encoding="utf-8")
    dom = chromium("--dump-dom", f"--window-size={width},{height}", used.as_uri())
    found = re.search(r"<title>(\S+) (\d+) (\d+) (\d+) (\w+)</title>", dom)
    assert found is not None, dom[:500]
    share, before, after = float(found[1]), int(found[2]), int(found[3])
    is_phone = int(found[4]) <= 640
    assert share < (0.12 if is_phone else 0.2) and found[5] == "true"
    assert (before, after) == ((2, 8) if is_phone else (7, 7))


def test_photographs_are_shrunk(tmp_path: Path) -> None:
    page = write_gallery(tmp_path / "g", ROWS[:1], lambda record: Image.effect_noise((1600, 1200), 80))
    with Image.open(page.parent / "images" / "7.jpg") as small:
        assert small.size == (320, 240)


def test_a_card_says_all_that_is_known(page: Path, chromium: Callable[..., str]) -> None:
    dom = opened(chromium, page, "q=ball")
    assert connected(dom) == [RED]
    for text in (
        "P(match) 0.931",
        "ITC 0.250",
        "✓ true",
        "a grey square",
        "dir/7.jpg · id seven · record 7 · caption 1234",
    ):
        assert text in dom
    assert 'src="images/7.png"' in dom and 'src="images/8.png"' in dom
    bare = opened(chromium, page, "q=cube")
    assert "✗ false" in bare and "annotated with" not in bare.split("<template")[0]


@pytest.mark.parametrize(
    ("view", "script", "expected"),
    [
        ("", "", [RED, CUBE, HOST, BLUE, GREEN]),
        ("sort=-p", "", [CUBE, RED, HOST, BLUE, GREEN]),
        ("", "sort.value = 'p'; sort.dispatchEvent(new Event('change'))", [GREEN, BLUE, HOST, RED, CUBE]),
        ("sort=record&q=a", "", [GREEN, BLUE, RED, CUBE, HOST]),
        ("verdict=ambiguous", "", [BLUE]),
        ("", "document.querySelector('[data-verdict=suspect]').click()", [GREEN]),
        ("q=red+small", "", [CUBE]),
        ("", "query.value = 'DISC'; query.dispatchEvent(new Event('input'))", [BLUE, GREEN]),
        ("q=disc&verdict=connection", "", []),
        ("q=disc", "document.querySelector('[data-verdict=\"\"]').click(); location.hash = 'q=ball'", [RED]),
    ],
)
def test_sorted_filtered_and_searched(
    page: Path, chromium: Callable[..., str], view: str, script: str, expected: list[str]
) -> None:
    dom = opened(chromium, page, view, script)
    assert connected(dom) == expected
    assert f"{len(expected)} of 5 shown" in dom
    assert ('id="empty" hidden' in dom) == bool(expected)


def test_the_keyboard_reaches_cards_search_and_pages(tmp_path: Path, chromium: Callable[..., str]) -> None:
    page = write_gallery(tmp_path / "g", [replace(ROW, text_row=n, caption=f"caption {n}") for n in range(100)], grey)
    press = (
        "const press = key => document.activeElement.dispatchEvent(new KeyboardEvent('keydown', {key, bubbles: true}));"
    )
    tell = "document.title = document.activeElement.id || document.activeElement.querySelector('.ids').textContent;"
    assert "<title>dir/7.jpg · id seven · record 7 · caption 1</title>" in opened(
        chromium, page, "", f"{press} 'jjjk'.split('').forEach(press); {tell}"
    )
    assert "<title>query</title>" in opened(chromium, page, "", f"{press} press('/'); {tell}")
    dom = opened(chromium, page, "", f"{press} 'nnnnp'.split('').forEach(press);")
    assert "page 2 of 3" in dom and connected(dom)[0] == "caption 48" and len(connected(dom)) == 48


def test_captions_and_paths_are_text_and_never_html(page: Path, chromium: Callable[..., str]) -> None:
    dom = opened(chromium, page, "q=broken")
    assert connected(dom) == [HOSTILE]
    assert "<title>Connections</title>" in dom and '<img src="x"' not in dom


def test_ten_thousand_connections_open_sorted_and_filtered(tmp_path: Path, chromium: Callable[..., str]) -> None:
    rows = [
        replace(ROW, text_row=n, caption=f"caption number {n} of many things in a row", p=n / 1e4)
        for n in range(10_000)
    ]
    many = write_gallery(tmp_path / "many", rows, grey)
    dom = opened(chromium, many, "sort=-p&q=number 9999")
    assert "of 10,000 shown" in dom and connected(dom) == [rows[9999].caption]


def test_light_dark_and_the_switch(page: Path, chromium: Callable[..., str], tmp_path: Path) -> None:
    corners = {}
    used = page.with_name("switched.html")
    used.write_text(
        page.read_text(encoding="utf-8").replace("</body>", "<script>byId('theme').click()</script></body>"),
        encoding="utf-8",
    )
    for name, address, scheme in (("dark", page, 0), ("light", page, 1), ("switched", used, 0)):
        picture = tmp_path / f"{name}.png"
        chromium(f"--blink-settings=preferredColorScheme={scheme}", f"--screenshot={picture}", address.as_uri())
        corners[name] = sum(Image.open(picture).convert("RGB").getpixel((2, 2)))  # type: ignore[arg-type]
    assert corners["dark"] < 150 and corners["light"] > 600 and corners["switched"] > 600
