"""The package as a whole: what an import costs, which floor may import which, and what an installation holds."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # with pytest

import yaml
from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import lavis_mafa
from tests.floors import FLOORS, arrows, circles, module_name, modules_imported, rooms, upward

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "lavis_mafa"

WITHOUT_LAVIS = ("common", "core", "data", "mining", "openclip", "reports")

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


def test_import_brings_nothing() -> None:
    code = """
import sys
import lavis_mafa
heavy = {"torch", "numpy", "pandas", "lavis", "transformers", "torchvision", "faiss"} & set(sys.modules)
assert not heavy, heavy
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


def test_every_room_is_on_a_floor_and_every_floor_is_of_rooms() -> None:
    assert rooms() == set().union(*FLOORS)


def test_no_import_goes_up_and_none_in_a_circle() -> None:
    assert not upward(arrows())
    assert not list(circles(arrows()))
    assert not list(circles(modules_imported()))


def uses_any(path: Path) -> bool:
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    imported = {node.name for node in nodes if isinstance(node, ast.alias)}
    return "Any" in imported | {node.attr for node in nodes if isinstance(node, ast.Attribute)}


def test_any_is_met_at_the_edge_alone() -> None:
    """Where code without types is met: LAVIS', in openclip_train open_clip's, in scorers transformers'."""
    edge = {"compat", "encoders", "models", "datasets", "processors", "tasks", "openclip_train", "scorers"}
    found = {module_name(path) for path in PACKAGE.rglob("*.py") if uses_any(path)}
    assert not {name for name in found if name.split(".")[1] not in edge}
    assert {name.split(".")[1] for name in found} == edge, "a room without Any leaves the edge"


def test_what_breaks_the_rules_is_seen(tmp_path: Path) -> None:
    sources = {
        "core/pairs.py": "from . import losses\ndef f():\n    import lavis_mafa.models.base\n    from .. import train",
        "core/losses.py": "",
        "models/base.py": "import lavis_mafa.core.pairs",
        "train.py": "",
        "attic.py": "from lavis_mafa.core import pairs",
    }
    for name, source in sources.items():
        (tmp_path / "lavis_mafa" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "lavis_mafa" / name).write_text(source)
    found = arrows(tmp_path)
    with pytest.raises(ValueError, match="lavis_mafa/attic is on no floor"):
        upward(found)
    found = {pair: modules for pair, modules in found.items() if "attic" not in pair}
    assert upward(found) == ["core -> models (lavis_mafa.core.pairs)", "core -> train (lavis_mafa.core.pairs)"]
    assert [set(circle) for circle in circles(found)] == [{"core", "models"}]
    inside = [set(circle) for circle in circles(modules_imported(tmp_path))]
    assert inside == [{"lavis_mafa.core.pairs", "lavis_mafa.models.base"}]


LOCKS = sorted((ROOT / "constraints").glob("py*.txt"))
LOCKED = re.compile(r"^(\S+)==(\S+)(?: ; (.+))? \\\n    --hash=sha256:", re.MULTILINE)


def locked(text: str, python: str) -> dict[str, str]:
    """Package → version that a lock installs on Linux x86-64."""
    machine = {"python_version": python, "python_full_version": f"{python}.1", "sys_platform": "linux"}
    machine |= {"platform_machine": "x86_64", "platform_system": "Linux", "extra": ""}
    pins = [match for match in LOCKED.findall(text) if not match[2] or Marker(match[2]).evaluate(machine)]
    assert len(pins) == len({name for name, _, _ in pins}), "a package with two versions"
    return {name: version for name, version, _ in pins}


def test_there_is_a_lock_for_every_supported_python() -> None:
    assert [path.stem for path in LOCKS] == ["py310", "py311", "py312", "py313"]


@pytest.mark.parametrize("path", LOCKS, ids=lambda path: path.stem)
def test_a_lock_holds_every_requirement_within_its_range(path: Path) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    wanted = [*project["project"]["dependencies"], *project["dependency-groups"]["lavis"]]
    for extra in ("lavis", "openclip", "cpu", "ray", "eccv", "dev"):
        wanted += project["project"]["optional-dependencies"][extra]
    text = path.read_text(encoding="utf-8")
    pins = locked(text, f"3.{path.stem[3:]}")
    for one in map(Requirement, wanted):
        name = canonicalize_name(one.name)
        assert name == "lavis-mafa" or one.specifier.contains(pins[name]), one
    assert "://" not in text  # no address: which registry it is, is the machine's affair


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


def test_the_citation_and_the_hooks_are_whole() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == lavis_mafa.__version__
    assert citation["preferred-citation"]["authors"][0]["family-names"] == "Byun"
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"][0]["hooks"]
    ci = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert all(f'"$PYTHON_BIN" -m {hook}' in ci for hook in ("ruff check", "ruff format", "mypy"))
    assert [hook["entry"].removeprefix("python -m ") for hook in hooks][:3] == [
        "ruff check --fix",
        "ruff format",
        "mypy",
    ]
