"""The floors of `lavis_mafa`: which package or module at its top may import which.

    python tests/floors.py              # rooms, imports among them, circles, imports upward; of this checkout
    python tests/floors.py /other/root  # of another one, whatever its layout

A room is a package or a module at the top of lavis_mafa/. tests/test_package.py holds the rules.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

# From the ground up. A room imports from floors below its own, never from its own floor or from above.
FLOORS: tuple[frozenset[str], ...] = (
    frozenset({"common"}),
    frozenset({"compat"}),
    frozenset({"cache", "core"}),
    frozenset({"data", "reports"}),
    frozenset({"encoders", "openclip", "mining"}),
    frozenset({"models"}),
    frozenset({"processors", "datasets"}),
    frozenset({"scorers"}),
    frozenset({"evaluation"}),
    frozenset({"tasks"}),
    frozenset({"runners"}),
    frozenset({"config"}),
    frozenset({"registration"}),
    frozenset({"mining_job", "openclip_train"}),
    frozenset({"api", "calibrate", "compare", "convert", "doctor", "mine", "train"}),
    frozenset({"evaluate"}),
    frozenset({"cli"}),
)
# A command that keeps its name inside a room far below what it runs.
COMMANDS = frozenset({"lavis_mafa.openclip.train"})


def module_name(path: Path, root: Path = ROOT) -> str:
    """lavis_mafa.core.pairs of lavis_mafa/core/pairs.py."""
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(path: Path, root: Path = ROOT) -> set[str]:
    """Every lavis_mafa module or name that the file imports, anywhere in it."""
    names: set[str] = set()
    package = module_name(path, root).split(".")
    if path.name != "__init__.py":
        package.pop()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            source = ".".join(part for part in (base, node.module) if part)
            names |= {f"{source}.{alias.name}" for alias in node.names}
    return {name for name in names if name.startswith("lavis_mafa.")}


def rooms(root: Path = ROOT) -> set[str]:
    """Packages and modules at the top, less __init__."""
    top = (root / "lavis_mafa").iterdir()
    return {path.stem for path in top if path.suffix == ".py" or any(path.glob("*.py"))} - {"__init__"}


def arrows(root: Path = ROOT) -> dict[tuple[str, str], list[str]]:
    """{(room, room it imports from): the modules that do}."""
    found: dict[tuple[str, str], list[str]] = {}
    known = rooms(root)
    for path in sorted((root / "lavis_mafa").rglob("*.py")):
        name = module_name(path, root)
        if name == "lavis_mafa" or name in COMMANDS:  # register() reaches everything, from inside a function
            continue
        room = name.split(".")[1]
        for other in sorted({other.split(".")[1] for other in imported(path, root)} & known - {room}):
            found.setdefault((room, other), []).append(name)
    return found


def modules_imported(root: Path = ROOT) -> dict[tuple[str, str], list[str]]:
    """{(module, module it imports): itself}, inside rooms and among them; a package's __init__ is its own module."""
    paths = {module_name(path, root): path for path in sorted((root / "lavis_mafa").rglob("*.py"))}
    found: dict[tuple[str, str], list[str]] = {}
    for name, path in paths.items():
        if name == "lavis_mafa":
            continue
        for other in imported(path, root):
            target = other if other in paths else other.rpartition(".")[0]  # a name in a module
            if target in paths and target not in (name, "lavis_mafa"):
                found[name, target] = [name]
    return found


def floor(room: str, floors: tuple[frozenset[str], ...] = FLOORS) -> int:
    """Raises ValueError: no floor names the room."""
    for number, names in enumerate(floors):
        if room in names:
            return number
    raise ValueError(f"lavis_mafa/{room} is on no floor: name it in tests/floors.py")


def upward(found: Mapping[tuple[str, str], list[str]]) -> list[str]:
    """Arrows that do not go down."""
    return [
        f"{room} -> {other} ({', '.join(modules)})"
        for (room, other), modules in sorted(found.items())
        if floor(other) >= floor(room)
    ]


def circles(found: Mapping[tuple[str, str], list[str]]) -> Iterator[list[str]]:
    """Circles among rooms or modules, one at a time: each is cut at its last arrow before the next is looked for."""
    graph: dict[str, set[str]] = {}
    for room, other in found:
        graph.setdefault(room, set()).add(other)
    while True:
        try:
            TopologicalSorter(graph).prepare()
            return
        except CycleError as error:
            circle = error.args[1][::-1]
            yield circle
            graph[circle[0]].discard(circle[1])


def main(root: Path) -> None:
    found, known = arrows(root), rooms(root)
    packages = sum((root / "lavis_mafa" / room).is_dir() for room in known)
    print(f"at the top of lavis_mafa/: {len(known)} ({packages} packages, {len(known) - packages} modules)")
    print(f"imports among them: {len(found)}")
    print("circles among them:", *(" -> ".join(circle) for circle in circles(found)), sep="\n  ")
    print("circles among modules:", *(" -> ".join(circle) for circle in circles(modules_imported(root))), sep="\n  ")
    if root == ROOT:
        print("imports that do not go down:", *upward(found), sep="\n  ")


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else ROOT)
