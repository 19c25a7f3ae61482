"""Docstrings of what a program imports: they are there, name their arguments, and their examples run."""

from __future__ import annotations

import ast
import doctest
import importlib
from collections.abc import Iterator
from pathlib import Path

import pytest

import lavis_mafa
import lavis_mafa.core

PACKAGE = Path(lavis_mafa.__file__).parent
FILES = [
    PACKAGE / "api.py",
    *(f for p in ("core", "openclip", "mining", "scorers") for f in (PACKAGE / p).glob("*.py")),
]
PUBLIC = sorted(file for file in FILES if file.stem != "__init__")
WITH_EXAMPLES = [file for file in PUBLIC if ">>>" in file.read_text("utf-8")]
MANY = 4  # arguments, from which on a line cannot describe them
Documented = ast.FunctionDef | ast.ClassDef


def name(file: Path) -> str:
    return ".".join(file.relative_to(PACKAGE.parent).with_suffix("").parts)


def public(tree: ast.Module) -> Iterator[Documented]:
    """Functions and classes of a module, and the methods of these classes."""
    for node in tree.body:
        if isinstance(node, Documented) and not node.name.startswith("_"):
            yield node
            if isinstance(node, ast.ClassDef):
                yield from (each for each in node.body if isinstance(each, ast.FunctionDef) and each.name[0] != "_")


def arguments(function: Documented) -> list[str]:
    if isinstance(function, ast.ClassDef):
        return []
    found = [each.arg for each in (*function.args.args, *function.args.kwonlyargs)]
    return [each for each in found if each not in ("self", "cls")]


def undocumented(source: str) -> list[str]:
    """Functions and classes without a docstring, and functions of many arguments whose docstring leaves them out."""
    tree = ast.parse(source)
    bare = [node.name for node in tree.body if node in set(public(tree)) and not ast.get_docstring(node)]  # type: ignore[arg-type, attr-defined]
    return bare + [
        f"{node.name}: no Args"
        for node in public(tree)
        if len(arguments(node)) >= MANY and "Args:" not in (ast.get_docstring(node) or "")
    ]


@pytest.mark.parametrize("file", WITH_EXAMPLES, ids=name)
def test_examples_run(file: Path) -> None:
    found = doctest.testmod(importlib.import_module(name(file)))
    assert found.attempted > 0 and found.failed == 0


def test_some_modules_have_examples() -> None:
    assert len(WITH_EXAMPLES) > 5


@pytest.mark.parametrize("file", PUBLIC, ids=name)
def test_docstrings_are_there_and_name_their_arguments(file: Path) -> None:
    assert undocumented(file.read_text("utf-8")) == []


def test_a_missing_docstring_and_missing_arguments_are_seen() -> None:
    of = '    def of(self, a, b, c, d):\n        """Of."""\n'
    source = f'class Here:\n    """It."""\n{of}\ndef bare(): ...\n\ndef _own(): ...\n'
    assert undocumented(source) == ["bare", "of: no Args"]


def test_core_exports_what_a_loop_needs() -> None:
    for each in lavis_mafa.core.__all__:
        assert getattr(lavis_mafa.core, each).__name__ == each
    with pytest.raises(AttributeError, match="no attribute"):
        _ = lavis_mafa.core.nothing
