"""The documentation as a site: it builds without a warning, leads where it says, and loads nothing from elsewhere."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from lavis_mafa.common.run_schema import MineRun, TrainRun

ROOT = Path(__file__).resolve().parents[1]

pytest.importorskip("mkdocs", reason="the site needs the extra docs")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def pages(site: Path) -> list[Path]:
    found = sorted(site.rglob("*.html"))
    assert len(found) > 20
    return found


def test_no_page_loads_anything_from_elsewhere(site: Path) -> None:
    loaded = r"<(?:script|img|iframe|link)\b[^>]*?(?:src|href)=\"((?:https?:)?//[^\"]+)"
    assert {page.name: found for page in pages(site) if (found := re.findall(loaded, page.read_text("utf-8")))} == {}


def test_links_lead_to_files(site: Path) -> None:
    lost = []
    for page in pages(site):
        for link in re.findall(r"(?:href|src)=\"([^\"#]+)", page.read_text("utf-8")):
            if re.match(r"\w+:", link):
                continue
            target = site / link.lstrip("/") if link.startswith("/") else page.parent / link
            lost += [] if target.exists() else [f"{page.relative_to(site)}: {link}"]
    assert lost == []


def test_every_key_of_run_is_in_the_reference(site: Path) -> None:
    text = (site / "reference" / "run.html").read_text("utf-8")
    keys = {each.name for schema in (TrainRun, MineRun) for each in fields(schema)}
    assert keys - set(re.findall(r"<td><code>(\w+)</code></td>", text)) == set()
    rows = [re.findall(r"<td>(.*?)</td>", row, flags=re.DOTALL) for row in text.split("<tr>")]
    defaults = {row[0]: row[2] for row in rows if row}
    assert defaults["<code>num_workers</code>"] == "<code>0</code>"
    assert defaults["<code>evaluate</code>"] == "<code>false</code>"


def test_the_api_shows_docstrings(site: Path) -> None:
    text = (site / "reference" / "api" / "core.html").read_text("utf-8")
    assert "hardest_pairs" in text and "For every text its most similar image" in text
