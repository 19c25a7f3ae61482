"""Progress on a terminal redraws one line; a log gets a plain line now and then."""

from __future__ import annotations

import io
import sys

import pytest

from lavis_mafa.common import progress as module
from lavis_mafa.common.progress import progress, progress_bar


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_log_gets_a_line_now_and_then(capsys: pytest.CaptureFixture[str]) -> None:
    for _ in progress(range(100_000), desc="outer", unit="row"):
        pass
    with progress_bar(total=1000, desc="bar") as bar:
        for _ in range(1000):
            bar.set_postfix(loss=1.0, refresh=False)
            bar.update()
    log = capsys.readouterr().err
    lines = log.split("\n")
    assert [line.split(":")[0] for line in lines] == ["outer", "outer", "bar", "bar", ""]
    assert "100000/100000" in lines[1] and "1000/1000" in lines[3]
    assert not {"\r", "\x1b"} & set(log) and log.isascii()


def test_long_work_shows_lines_on_its_way(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SECONDS", 0.0)
    for _ in progress(range(5), desc="outer", miniters=1):
        for _ in progress(range(3), desc="inner", leave=False, miniters=1):
            pass
    log = capsys.readouterr().err
    lines = log.splitlines()
    assert sum("inner" in line for line in lines) >= 15 and sum("outer" in line for line in lines) >= 5
    assert all(line.strip() for line in lines) and "\r" not in log


def test_a_terminal_gets_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    file = Terminal()
    monkeypatch.setattr(sys, "stderr", file)
    for _ in progress(range(3), desc="outer"):
        pass
    assert file.getvalue().startswith("\router") and file.getvalue().count("\n") == 1
