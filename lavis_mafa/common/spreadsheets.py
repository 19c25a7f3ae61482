"""CSV files that people open in a spreadsheet, which runs a caption like `=HYPERLINK(…)` as a formula.

Tested in tests/core/test_spreadsheets.py.
"""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd

from lavis_mafa.common.artifacts import atomic_write

# What makes a cell a formula, or hides one, by OWASP's page on CSV injection: also in full width.
FORMULA = r"[=+\-@\t\r\n＝＋－＠]"


def as_text(cell: object) -> object:
    """A text that a spreadsheet would run, with an apostrophe in front, which makes it text; else the cell itself."""
    return f"'{cell}" if isinstance(cell, str) and re.match(f"'*{FORMULA}", cell) else cell


def from_text(cell: str) -> str:
    """What `as_text` was given."""
    return cell[1:] if re.match(f"'+{FORMULA}", cell) else cell


def write_csv(path: Path, frame: pd.DataFrame) -> None:
    """The frame without its index, its texts and the names of its columns as text."""
    with atomic_write(path) as file:
        frame.map(as_text).rename(columns=as_text).to_csv(file, index=False)
