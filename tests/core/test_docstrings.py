"""Examples in docstrings run, and what core exports is there."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import pytest

import lavis_mafa.core

MODULES = sorted(path.stem for path in Path(lavis_mafa.core.__file__).parent.glob("*.py") if path.stem != "__init__")


@pytest.mark.parametrize("name", MODULES)
def test_examples_run(name: str) -> None:
    assert doctest.testmod(importlib.import_module(f"lavis_mafa.core.{name}")).failed == 0


def test_some_functions_have_examples() -> None:
    tried = [doctest.testmod(importlib.import_module(f"lavis_mafa.core.{name}")).attempted for name in MODULES]
    assert sum(tried) > 8


def test_core_exports_what_a_loop_needs() -> None:
    for name in lavis_mafa.core.__all__:
        assert getattr(lavis_mafa.core, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute"):
        _ = lavis_mafa.core.nothing
