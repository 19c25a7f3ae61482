"""Every ```bash block of README and docs runs, shortened by the smoke preset; then ```py, in the folder it wrote."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from tests.jobs.commands import ROOT, run

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCKS: dict[str, str] = {}  # block → where it stands first: what stands on two pages runs once
for page in PAGES:
    for number, block in enumerate(re.findall(r"^```bash\n(.*?)^```", page.read_text("utf-8"), re.DOTALL | re.M)):
        BLOCKS.setdefault(block, f"{page.relative_to(ROOT)}-{number}")
AFTER = {
    block: re.findall(r"^```py\n(.*?)^```", (ROOT / place.rpartition("-")[0]).read_text("utf-8"), re.DOTALL | re.M)
    for block, place in BLOCKS.items()
}


def test_the_pages_have_commands() -> None:
    assert len(BLOCKS) >= 4


CONSOLE = 'lavis-mafa() { python -m lavis_mafa.cli "$@"; }\n'  # also where the package is not installed


def shortened(block: str, folder: Path) -> str:
    """Every command of a block with --smoke."""
    lines = block.replace("\\\n", " ").splitlines()
    return CONSOLE + "\n".join(
        f"{line} --smoke '{folder}'"
        if line.startswith(("bash run_scripts/", "python -m lavis_mafa.", "lavis-mafa "))
        else line
        for line in lines
    )


@pytest.mark.parametrize("block", [pytest.param(block, id=place) for block, place in BLOCKS.items()])
def test_a_command_runs(block: str, tmp_path_factory: pytest.TempPathFactory, shared_data: Path) -> None:
    folder = tmp_path_factory.getbasetemp() / "readme"
    run("bash", "-euo", "pipefail", "-c", shortened(block, folder), LAVIS_MAFA_DATA=str(shared_data))
    for python in AFTER.get(block, ()):
        run(sys.executable, "-c", python, cwd=folder)


def is_png(file: Path) -> bool:
    return file.read_bytes().startswith(b"\x89PNG")


def test_the_picture_is_drawn(tmp_path: Path) -> None:
    run(sys.executable, "projects/figures/false_negative.py", str(tmp_path / "drawn.png"))
    assert is_png(tmp_path / "drawn.png")


def test_the_pictures_of_the_concepts_are_drawn(tmp_path: Path) -> None:
    run(sys.executable, "projects/figures/concepts.py", str(tmp_path))
    shown = set(re.findall(r"\(images/(\w+)\.png\)", (ROOT / "docs" / "concepts.md").read_text("utf-8")))
    assert {file.stem for file in tmp_path.iterdir() if is_png(file)} == shown - {"false_negative"}
