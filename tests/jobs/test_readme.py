"""Every command of the README runs, shortened by the smoke preset."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.jobs.commands import ROOT, run

BLOCKS = re.findall(r"```bash\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)


def test_readme_has_commands() -> None:
    assert len(BLOCKS) >= 3


def shortened(block: str, folder: Path) -> str:
    """Every command of a block with --smoke."""
    lines = block.replace("\\\n", " ").splitlines()
    return "\n".join(
        f"{line} --smoke '{folder}'" if line.startswith(("bash run_scripts/", "python -m lavis_mafa.")) else line
        for line in lines
    )


@pytest.mark.parametrize("block", BLOCKS)
def test_readme_command(block: str, tmp_path_factory: pytest.TempPathFactory, shared_data: Path) -> None:
    folder = tmp_path_factory.getbasetemp() / "readme"
    run("bash", "-euo", "pipefail", "-c", shortened(block, folder), LAVIS_MAFA_DATA=str(shared_data))
