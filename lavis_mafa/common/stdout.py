"""What the commands print, in whatever encoding the terminal or the log has. Tested in tests/jobs/test_stdout.py."""

from __future__ import annotations

import sys


def print_anything() -> None:
    """Makes stdout print what its encoding lacks as an escape, as stderr does: a finished command must not end in 1."""
    if reconfigure := getattr(sys.stdout, "reconfigure", None):
        reconfigure(errors="backslashreplace")


def printable(text: object) -> str:
    """The text with every character that a terminal would obey, or not show, as the escape that `repr` writes.

    File names and captions of others may hold escape sequences, or marks that turn the direction of writing.
    """
    lines = str(text)
    if lines.isprintable():
        return lines
    return "".join(one if one.isprintable() or one in "\n\t" else repr(one)[1:-1] for one in lines)
