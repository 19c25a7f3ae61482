"""Reading nested keys of which any part may be missing."""

from __future__ import annotations

import numpy as np
import pytest

from lavis_mafa.common.tree import at, keys_at, number_at

TREE = {"retrieval": {"itc": {"r1": 50.5, "r5": None}, "note": "half"}, "count": 3, "seconds": np.float32(0.5)}


@pytest.mark.parametrize(
    ("path", "found", "number"),
    [
        (("count",), 3, 3),
        (("seconds",), np.float32(0.5), 0.5),
        (("retrieval", "itc", "r1"), 50.5, 50.5),
        (("retrieval", "itc", "r5"), None, None),
        (("retrieval", "note"), "half", None),
        (("retrieval", "note", "r1"), None, None),
        (("plan", "r1"), None, None),
    ],
)
def test_what_stands_at_a_path(path: tuple[str, ...], found: object, number: float | None) -> None:
    assert at(TREE, *path) == found
    assert number_at(TREE, *path) == number
    assert keys_at(TREE, *path) == {}


def test_keys_at_a_path() -> None:
    assert keys_at(TREE, "retrieval", "itc") == {"r1": 50.5, "r5": None}
    assert keys_at(TREE) == TREE and keys_at(None, "retrieval") == {}
