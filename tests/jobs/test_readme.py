"""Every command of the README runs, shortened by the smoke preset."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.jobs.commands import ROOT, run

BLOCKS = re.findall(r"```bash\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)


def test_readme_has_commands() -> None:
    assert len(BLOCKS) >= 3


@pytest.mark.parametrize("block", BLOCKS)
def test_readme_command(block: str, tmp_path_factory: pytest.TempPathFactory, shared_data: Path) -> None:
    folder = tmp_path_factory.getbasetemp() / "readme"
    run("bash", "-euo", "pipefail", "-c", block, LAVIS_MAFA_SMOKE=str(folder), LAVIS_MAFA_DATA=str(shared_data))
