"""How far long work is, on a terminal and in the log of a cluster or a CI. Tested in tests/core/test_progress.py."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any, NoReturn, TextIO, TypeVar

from tqdm import tqdm

SECONDS = 30.0  # between two lines of a log
UP = "\x1b[A"  # by which tqdm returns from the line of an inner bar

T = TypeVar("T")


def progress(items: Iterable[T], **options: Any) -> tqdm[T]:
    """tqdm(items, **options) on a terminal; elsewhere a plain line every SECONDS."""
    return tqdm(items, **_for_stderr(), **options)


def progress_bar(**options: Any) -> tqdm[NoReturn]:
    """As `progress`, for a bar that its owner moves."""
    return tqdm(**_for_stderr(), **options)


def _for_stderr() -> dict[str, Any]:
    if sys.stderr.isatty():
        return {}
    return {"file": _Lines(sys.stderr), "mininterval": SECONDS, "maxinterval": SECONDS, "ascii": True}


class _Lines:
    """A log in a terminal's place: what would redraw one line becomes a line of its own."""

    def __init__(self, file: TextIO) -> None:
        self.file = file

    def write(self, text: str) -> None:
        if line := text.replace(UP, "").strip():
            self.file.write(f"{line}\n")

    def flush(self) -> None:
        self.file.flush()
