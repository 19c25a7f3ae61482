"""Which checkpoint a model config loads, and results.json names."""

from __future__ import annotations

from typing import Any

import pytest

from lavis_mafa.models.pretrained import checkpoint_path, weights_switches

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


OFF = {"load_finetuned": False, "load_pretrained": False, "pretrained": "", "finetuned": ""}
LAVIS = {"load_finetuned": True, "load_pretrained": True, "pretrained": "stage1.pth", "finetuned": "coco.pth"}


@pytest.mark.parametrize(
    ("packaged", "given", "path"),
    [
        (OFF, {}, None),
        (OFF, {"pretrained": "a.pth"}, "a.pth"),
        (OFF, {"finetuned": "a.pth"}, "a.pth"),
        (LAVIS, {}, "coco.pth"),
        (LAVIS, {"pretrained": "a.pth"}, "a.pth"),
        (LAVIS, {"pretrained": "a.pth", "load_finetuned": False}, "a.pth"),
        (LAVIS, {"pretrained": None}, "coco.pth"),
        (LAVIS, {"finetuned": "a.pth", "pretrained": "b.pth"}, "a.pth"),
    ],
)
def test_a_checkpoint_that_the_user_names_is_the_one_that_is_loaded(
    packaged: dict[str, Any], given: dict[str, Any], path: str | None
) -> None:
    assert checkpoint_path({**packaged, **given, **weights_switches(packaged, given)}) == path


def test_an_option_wins_over_what_the_yaml_names() -> None:
    given = {"finetuned": "yaml.pth", "pretrained": "option.pth"}
    switches = weights_switches(LAVIS, given, insisted=["pretrained"])
    assert checkpoint_path({**LAVIS, **given, **switches}) == "option.pth"


@pytest.mark.parametrize(
    ("given", "remedy"),
    [
        ({"pretrained": "a.pth", "load_pretrained": False}, "set model.load_pretrained: true"),
        ({"pretrained": "a.pth", "load_finetuned": True}, "set model.load_finetuned: false"),
        ({"finetuned": "a.pth", "load_finetuned": False}, "set model.load_finetuned: true"),
    ],
)
def test_a_checkpoint_that_would_not_be_loaded_is_refused(given: dict[str, Any], remedy: str) -> None:
    with pytest.raises(ValueError, match=rf"is a.pth, but model.load_.*: {remedy}, or model"):
        weights_switches(LAVIS, given)
    # a YAML may name a checkpoint and switch it off
    assert weights_switches(LAVIS, given, insisted=[]) == {}
