"""A wheel holds all that its commands need, and works in any folder, without a checkout."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "lavis_mafa"

ELSEWHERE = """
import sys
import lavis_mafa, lavis_mafa.cli
assert lavis_mafa.__file__.startswith({site!r}) and {root!r} not in sys.path
for words in {commands!r}:
    try:
        lavis_mafa.cli.main(words)
    except SystemExit as end:
        if end.code:
            raise
"""
COMMANDS = [
    ["--version"],
    ["configs"],
    ["train", "--dry-run", "--cfg-path", "projects/mafa/blip2/pretrain_stage1_scenes.yaml"],
    ["mine", "--cfg-path", "projects/mafa/mine/mine_scenes.yaml", "--smoke", "here"],
]
PRINTED = ["lavis_mafa 0.", "projects/mafa/mine/mine_scenes.yaml\n    ", "records: 8000 with ", "gallery/index.html"]


def test_an_installation_holds_every_file_of_the_package(wheel: Path) -> None:
    built = {path.relative_to(wheel) for path in (wheel / "lavis_mafa").rglob("*") if path.is_file()}
    expected = {
        path.relative_to(ROOT)
        for path in PACKAGE.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".pyc"
    }
    runs = {"lavis_mafa" / path.relative_to(ROOT) for path in (ROOT / "projects" / "mafa").rglob("*.yaml")}
    assert built == expected | runs and len(runs) > 40


def test_it_works_in_any_folder(wheel: Path, tmp_path: Path) -> None:
    code = ELSEWHERE.format(root=str(ROOT), site=str(wheel), commands=COMMANDS)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(wheel), *installed()]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-S", "-W", "ignore", "-c", code]  # -S: an editable checkout is not on the path
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert [text for text in PRINTED if text not in done.stdout] == []
    assert (tmp_path / "here" / "output" / "mafa" / "mine_scenes" / "gallery" / "index.html").is_file()
    assert not (wheel / "output").exists(), "nothing is written into an installation"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a wheel of this checkout unpacks to; the checkout itself stays as it is."""
    folder = tmp_path_factory.mktemp("wheel")
    (folder / "source").mkdir()
    for name in ("lavis_mafa", "projects"):
        shutil.copytree(ROOT / name, folder / "source" / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE", "MANIFEST.in"):
        shutil.copy(ROOT / name, folder / "source")
    build = "from setuptools import build_meta; build_meta.build_wheel('..')"
    done = subprocess.run([sys.executable, "-c", build], cwd=folder / "source", capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    (built,) = folder.glob("*.whl")
    with zipfile.ZipFile(built) as archive:
        archive.extractall(folder / "site")
    scripts = next((folder / "site").glob("*.dist-info")) / "entry_points.txt"
    assert "lavis-mafa = lavis_mafa.cli:main" in scripts.read_text()
    return folder / "site"


def installed() -> list[str]:
    """Where packages of this environment lie, less the checkout, which an editable installation adds.

    The environment itself may lie in the checkout.
    """
    paths = [Path(path) for path in sys.path if path]
    return [str(path) for path in paths if path.is_relative_to(sys.prefix) or not path.resolve().is_relative_to(ROOT)]
