"""A real headless browser for the pages."""

import json
import os
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

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


@pytest.fixture
def driver(tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """`driver("url", url=…)` sends a WebDriver command (W3C) to a browser that downloads to tmp_path / "downloads"."""
    found, program = next(filter(None, map(shutil.which, NAMES)), None), shutil.which("chromedriver")
    if (found is None or program is None) and os.environ.get("CI") == "true":
        pytest.fail("pages are tested in a real browser: apt-get install chromium chromium-driver")
    if found is None or program is None:
        pytest.skip("no Chromium and chromedriver on PATH: apt-get install chromium chromium-driver")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (tmp_path / "downloads").mkdir()
    server = subprocess.Popen([program, f"--port={port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def send(path: str, method: str = "POST", **values: object) -> Any:
        body = json.dumps(values).encode() if method == "POST" else None
        request = urllib.request.Request(f"http://127.0.0.1:{port}/{path}", body, method=method)
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=60) as reply:
            return json.load(reply)["value"]

    chrome = {"binary": found, "args": [*FLAGS[:-1], f"--user-data-dir={tmp_path / 'driven'}"]}
    chrome["prefs"] = {"download.default_directory": str(tmp_path / "downloads")}
    session = ""
    try:
        _wait_for(port)
        opened = send("session", capabilities={"alwaysMatch": {"goog:chromeOptions": chrome}})
        session = f"session/{opened['sessionId']}"
        yield lambda command, **values: send(f"{session}/{command}", **values)
    finally:
        if session:
            send(session, "DELETE")
        server.terminate()
        server.wait()


def _wait_for(port: int) -> None:
    for _ in range(200):
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.05)
    raise TimeoutError("chromedriver does not answer")
