"""How far long work is, on a terminal and in the log of a cluster or a CI. Tested in tests/core/test_progress.py."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, NoReturn, TextIO, TypedDict, TypeVar

from tqdm import tqdm

if TYPE_CHECKING:
    from typing_extensions import Unpack

SECONDS = 30.0  # between two lines of a log
UP = "\x1b[A"  # by which tqdm returns from the line of an inner bar

T = TypeVar("T")


class BarOptions(TypedDict, total=False):
    """Keywords of tqdm that the project uses."""

    desc: str
    unit: str
    unit_scale: bool
    total: int
    initial: int
    leave: bool
    disable: bool


class _Output(TypedDict, total=False):
    file: _Lines
    mininterval: float
    maxinterval: float
    ascii: bool


def progress(items: Iterable[T], **options: Unpack[BarOptions]) -> tqdm[T]:
    """tqdm(items, **options) on a terminal; elsewhere a plain line every SECONDS."""
    return tqdm(items, **_for_stderr(), **options)


def progress_bar(**options: Unpack[BarOptions]) -> tqdm[NoReturn]:
    """As `progress`, for a bar that its owner moves."""
    return tqdm(**_for_stderr(), **options)


def _for_stderr() -> _Output:
    if sys.stderr.isatty():
        return {}
    return _Output(file=_Lines(sys.stderr), mininterval=SECONDS, maxinterval=SECONDS, ascii=True)


class _Lines:
    """A log in a terminal's place: what would redraw one line becomes a line of its own."""

    def __init__(self, file: TextIO) -> None:
        self.file = file

    def write(self, text: str) -> None:
        if line := text.replace(UP, "").strip():
            self.file.write(f"{line}\n")

    def flush(self) -> None:
        self.file.flush()
