"""Which checkpoint a model config loads, and results.json names."""

from __future__ import annotations

from typing import Any

import pytest

from lavis_mafa.models.pretrained import checkpoint_path

PATHS = {"pretrained": "stage2.pth", "finetuned": "captions.pth"}


@pytest.mark.parametrize(
    ("switches", "path"),
    [
        ({}, "stage2.pth"),
        ({"load_finetuned": True}, "captions.pth"),
        ({"load_finetuned": True, "load_pretrained": True}, "captions.pth"),
        ({"load_pretrained": False}, None),
        ({"pretrained": ""}, None),
    ],
)
def test_the_checkpoint_that_was_loaded_is_named(switches: dict[str, Any], path: str | None) -> None:
    assert checkpoint_path({**PATHS, **switches}) == path
