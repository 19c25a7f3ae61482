"""SECURITY.md names tests that exist, and the keys that data sets have."""

import re
from dataclasses import fields
from pathlib import Path

from lavis_mafa.common.references import VARIABLES
from lavis_mafa.data.images import FORMATS
from lavis_mafa.data.rules import FileRules

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "SECURITY.md").read_text("utf-8")
SETTINGS = (ROOT / "docs" / "reference" / "settings.md").read_text("utf-8")


def test_every_promise_names_tests_that_exist() -> None:
    rows = [line for line in PAGE.splitlines() if line.startswith("| ")][2:]
    assert len(rows) > 7
    for row in rows:
        files = re.findall(r"`(tests/[\w/]+\.py)`", row.split("|")[3])
        assert files and all((ROOT / file).is_file() for file in files), row


def test_the_pages_name_what_the_code_has() -> None:
    for one in fields(FileRules):
        default = str(one.default).lower() if isinstance(one.default, bool) else f"{one.default:,}"
        assert f"| `{one.name}` | {default} |" in SETTINGS
        assert f"`{one.name}" in PAGE
    for name in VARIABLES:
        assert name in PAGE and name in SETTINGS
    listed = re.search(r"opened as (.*?) alone", PAGE)
    assert listed and tuple(re.findall(r"\w+", listed[1].upper().replace(" OR ", ", "))) == FORMATS
