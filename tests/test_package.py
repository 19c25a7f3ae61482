"""The package as a whole: what an import costs, which floor may import which, and what an installation holds."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "lavis_mafa"

# Floors from the ground up. A module may import its own floor and the ones below. What is not named here (builders,
# tasks, runner and their parts) stands above con_d and below the commands.
FLOORS = (
    {"core"},
    {"data", "mining", "openclip", "reports"},
    {"models"},
    {"con_d"},
    set(),
    {"train", "evaluate", "mine", "doctor"},
)
COMMANDS = {"lavis_mafa.openclip_train.launcher"}  # a command that stands beside what it runs
UNNAMED = FLOORS.index(set())
WITHOUT_LAVIS = ("core", "data", "mining", "openclip", "reports")

BLOCK = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("lavis", "transformers"):
            raise ImportError(f"{name} is blocked")
sys.meta_path.insert(0, Blocked())
"""


def run_python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=120)


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def floor(name: str) -> int:
    if name in COMMANDS:
        return len(FLOORS) - 1
    part = name.split(".")[1]
    return next((number for number, parts in enumerate(FLOORS) if part in parts), UNNAMED)


def imported(path: Path) -> set[str]:
    """Every lavis_mafa module that the file imports, anywhere in it."""
    names: set[str] = set()
    package = module_name(path).split(".") if path.name == "__init__.py" else module_name(path).split(".")[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            source = ".".join(part for part in (base, node.module) if part)
            names |= {f"{source}.{alias.name}" for alias in node.names}
    return {name for name in names if name.startswith("lavis_mafa.")}


def arrows_up(path: Path) -> list[str]:
    name = module_name(path)
    if name in ("lavis_mafa", "lavis_mafa.registration"):  # register() reaches everything, from inside functions
        return []
    return [f"{name} -> {other}" for other in sorted(imported(path)) if floor(other) > floor(name) and is_module(other)]


def is_module(name: str) -> bool:
    """False for `from lavis_mafa import register`: a name of the package itself, on no floor."""
    path = ROOT / Path(*name.split(".")[:2])
    return path.is_dir() or path.with_suffix(".py").is_file()


def test_import_is_instant_and_brings_nothing() -> None:
    code = """
import sys, time
start = time.perf_counter()
import lavis_mafa
seconds = time.perf_counter() - start
heavy = {"torch", "numpy", "pandas", "lavis", "transformers", "torchvision", "faiss"} & set(sys.modules)
assert not heavy, heavy
assert seconds < 0.1, seconds
assert lavis_mafa.__version__
"""
    result = run_python(code)
    assert result.returncode == 0, result.stderr


def test_what_needs_no_lavis_runs_without_it() -> None:
    modules = [module_name(path) for part in WITHOUT_LAVIS for path in sorted((PACKAGE / part).rglob("*.py"))]
    assert len(modules) > 20
    code = BLOCK + "import importlib\n" + "\n".join(f"importlib.import_module({name!r})" for name in modules)
    result = run_python(code)
    assert result.returncode == 0, result.stderr


def test_the_block_blocks() -> None:
    result = run_python(BLOCK + "import lavis_mafa.models.blip2.stage1")
    assert result.returncode != 0
    assert "is blocked" in result.stderr


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_import_goes_up(path: Path) -> None:
    assert not arrows_up(path)


def test_an_arrow_up_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    for name in ("core/pairs.py", "core/losses.py", "models/base.py", "runner.py"):
        (tmp_path / "lavis_mafa" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "lavis_mafa" / name).touch()
    path = tmp_path / "lavis_mafa" / "core" / "pairs.py"
    path.write_text(
        "from . import losses\ndef f():\n    from lavis_mafa.models import base\n    from .. import runner\n"
    )
    assert arrows_up(path) == [
        "lavis_mafa.core.pairs -> lavis_mafa.models.base",
        "lavis_mafa.core.pairs -> lavis_mafa.runners.grit",
    ]


def test_an_installation_holds_every_file_of_the_package(tmp_path: Path) -> None:
    command = [sys.executable, "setup.py", "-q", "build", "-b", str(tmp_path / "b"), "egg_info", "-e", str(tmp_path)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    built = {path.relative_to(tmp_path / "b" / "lib") for path in (tmp_path / "b" / "lib").rglob("*") if path.is_file()}
    expected = {
        path.relative_to(ROOT)
        for path in PACKAGE.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".pyc"
    }
    assert built == expected


def test_registering_twice_changes_nothing() -> None:
    code = """
import lavis_mafa
lavis_mafa.register()
from lavis.common.registry import registry
first = {kind: dict(names) for kind, names in registry.mapping.items()}
lavis_mafa.register()
assert {kind: dict(names) for kind, names in registry.mapping.items()} == first
assert registry.get_model_class("mafa_blip2") is not None
"""
    result = run_python(code)
    assert result.returncode == 0, result.stderr
