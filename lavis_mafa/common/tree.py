"""Reading nested keys of JSON or YAML, of which any part may be missing. Tested in tests/core/test_tree.py."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Real
from typing import cast

Keys = Mapping[str, object]


def at(tree: object, *path: str) -> object:
    """What stands at `path`; None where a part of it is missing."""
    for name in path:
        tree = tree.get(name) if isinstance(tree, Mapping) else None
    return tree


def keys_at(tree: object, *path: str) -> Keys:
    """The keys with their values at `path`; none where something else stands there."""
    found = at(tree, *path)
    return cast(Keys, found) if isinstance(found, Mapping) else {}


def number_at(tree: object, *path: str) -> float | None:
    """The number at `path`, also one of NumPy; None where something else stands there."""
    found = at(tree, *path)
    return float(found) if isinstance(found, Real) else None
