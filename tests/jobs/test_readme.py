"""Every ```bash block of README and docs runs, shortened by the smoke preset; then ```py, in the folder it wrote."""

from __future__ import annotations

import re
import socket
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


SEVERAL = (ROOT / "docs" / "guides" / "several-gpus.md").read_text("utf-8")
TORCHRUN = [block for block in re.findall(r"^```sh\n(.*?)^```", SEVERAL, re.DOTALL | re.M) if "torchrun" in block]
STAND_INS = 'srun() { shift 6; "$@"; }; scontrol() { echo 127.0.0.1; }; export -f scontrol; '
STAND_INS += "export SLURM_NNODES=1 SLURM_JOB_ID=7 SLURM_JOB_NODELIST=n1\n"


def on_two_processes(block: str, folder: Path) -> str:
    """A torchrun command for several GPUs and machines as one on two processes of this one, with --smoke."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    here = {
        "--nproc-per-node 8": "--nproc-per-node 2",
        "--nnodes 2": "--nnodes 1",
        "HOST:": "127.0.0.1:",
        "29400": port,
        "pretrain_stage1.yaml": f"pretrain_stage1_scenes.yaml --smoke {folder}",
    }
    for stated, local in here.items():
        block = block.replace(stated, local)
    return STAND_INS + block


@pytest.mark.parametrize("block", TORCHRUN, ids=["one machine", "several", "slurm"])
def test_torchrun_starts_two_processes(block: str, tmp_path: Path) -> None:
    run("bash", "-euo", "pipefail", "-c", on_two_processes(block, tmp_path))
    assert list(tmp_path.rglob("embeddings_*_rank1.bin")), "the second process stored its embeddings"
    assert list(tmp_path.rglob("results.json"))


def is_png(file: Path) -> bool:
    return file.read_bytes().startswith(b"\x89PNG")


def test_the_picture_is_drawn(tmp_path: Path) -> None:
    run(sys.executable, "projects/figures/false_negative.py", str(tmp_path / "drawn.png"))
    assert is_png(tmp_path / "drawn.png")


def test_the_pictures_of_the_concepts_are_drawn(tmp_path: Path) -> None:
    run(sys.executable, "projects/figures/concepts.py", str(tmp_path))
    shown = set(re.findall(r"\(images/(\w+)\.png\)", (ROOT / "docs" / "concepts.md").read_text("utf-8")))
    assert {file.stem for file in tmp_path.iterdir() if is_png(file)} == shown - {"false_negative"}
