"""A real headless browser for the pages."""

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=2000")


@pytest.fixture
def chromium(tmp_path: Path) -> Callable[..., str]:
    """`chromium("--dump-dom", url)` runs the browser and returns what it printed. A must in CI; skipped elsewhere."""
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None and os.environ.get("CI") == "true":
        pytest.fail("pages are tested in a real browser, and there is none: apt-get install chromium")
    if found is None:
        pytest.skip("no Chromium on PATH: apt-get install chromium")

    def run(*arguments: str) -> str:
        command = [found, *FLAGS, f"--user-data-dir={tmp_path / 'profile'}", *arguments]
        return subprocess.run(command, capture_output=True, encoding="utf-8", timeout=60, check=True).stdout

    return run
