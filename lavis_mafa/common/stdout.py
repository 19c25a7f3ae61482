"""What the commands print, in whatever encoding the terminal or the log has. Tested in tests/jobs/test_stdout.py."""

from __future__ import annotations

import logging
import sys


def print_anything() -> None:
    """Makes stdout print what its encoding lacks as an escape, as stderr does: a finished command must not end in 1."""
    if reconfigure := getattr(sys.stdout, "reconfigure", None):
        reconfigure(errors="backslashreplace")


def printable(text: object, kept: str = "\n\t") -> str:
    """The text with every character that a terminal would obey, or not show, as the escape that `repr` writes.

    File names and captions of others may hold escape sequences, or marks that turn the direction of writing.
    kept: characters that stay as they are.
    """
    lines = str(text)
    if lines.isprintable():
        return lines
    return "".join(one if one.isprintable() or one in kept else repr(one)[1:-1] for one in lines)


def show(text: object) -> None:
    """Prints the text as `printable` shows it: what a job reports of configs, paths and captions of others."""
    print(printable(text))


class Printable(logging.Formatter):
    """A record's message as `printable` shows it."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


def log_messages(level: int) -> None:
    """The log of a command, to stderr: messages alone."""
    handler = logging.StreamHandler()
    handler.setFormatter(Printable("%(message)s"))
    logging.basicConfig(level=level, handlers=[handler])
