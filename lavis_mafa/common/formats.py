"""The formats of the files that a later run reads back: which this version reads, and an error for those it does not.

A number is raised when files written before can no longer be read, or when their fingerprints can no longer be
compared. Tested in tests/test_old_outputs.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TypedDict

from lavis_mafa import __version__

FORMATS = {"plan": 2, "embeddings": 2, "connections": 2, "checkpoint": 3, "model": 1, "calibration": 1, "test_set": 1}
BEFORE = "0.1.0"  # the one version that did not write its number


class OldOutputError(ValueError):
    """A file that another version wrote in a format that this one does not read."""


class Header(TypedDict):
    """What a file begins with."""

    format: str
    version: str


def header(kind: str) -> Header:
    """What a file of this kind begins with: its format and the version that wrote it."""
    return {"format": f"lavis_mafa {kind} {FORMATS[kind]}", "version": __version__}


def check_format(path: str | Path, kind: str, found: Mapping[str, object], remedy: str) -> None:
    """Whether this version reads a file with the header `found`.

    Args:
        path: of the file, for the message.
        kind: one of FORMATS.
        remedy: what to do instead, a clause.

    Raises:
        OldOutputError: it was written in another format, naming the version that wrote it.
        ValueError: the header names no format.
    """
    if "format" not in found:
        raise ValueError(f"{path} is not a {kind} file of lavis_mafa: {remedy}")
    if found["format"] != header(kind)["format"]:
        version = found.get("version", BEFORE)
        raise OldOutputError(
            f"{path} was written by lavis_mafa {version}, whose {kind} format {__version__} does not read: {remedy}"
        )
