"""Settings that a resume may change, and those that it may not."""

from __future__ import annotations

from typing import Any

import pytest

from lavis_mafa.runners.changes import accept_changes, changed_settings

CONFIG: dict[str, Any] = {
    "run": {"seed": 1, "num_workers": 0, "output_dir": "a", "con_d": {"arch": "self"}, "test_splits": ["test"]},
    "model": {"mafa": {"preset": "mafa"}},
    "datasets": {"image_text": {"images": "/here/images", "annotations": {"train": "/here/train.json"}}},
}


@pytest.mark.parametrize(
    ("section", "changed", "found"),
    [
        ("run", {"seed": 2}, {"run.seed": (1, 2)}),
        ("run", {"con_d": None}, {"run.con_d": (None, None), "run.con_d.arch": ("self", None)}),
        ("run", {"num_workers": 4, "output_dir": "b", "test_splits": []}, {}),
        ("run", {"added_by_a_later_version": 3}, {}),
        ("model", {"mafa": {"preset": "mafa", "alpha": 0.2}}, {"model.mafa.alpha": (None, 0.2)}),
        ("datasets", {"image_text": {"images": "/there/images", "annotations": {"train": "/there/train.json"}}}, {}),
        (
            "datasets",
            {"image_text": {"images": "/here/images", "annotations": {"train": "/here/other.json"}}},
            {"datasets.image_text.annotations.train": ("/here/train.json", "/here/other.json")},
        ),
    ],
)
def test_what_changes_what_is_learned(section: str, changed: dict[str, Any], found: dict[str, Any]) -> None:
    now = {**CONFIG, section: {**CONFIG[section], **changed}}
    expected = {key: pair for key, pair in found.items() if pair != (None, None)}
    assert changed_settings(CONFIG, now) == expected


def test_changes_are_listed_with_those_of_earlier_resumes() -> None:
    first = accept_changes({"config": CONFIG, "epoch": 1, "step": 2}, {**CONFIG, "run": {"seed": 2}}, allow=True)
    content = {"config": {**CONFIG, "run": {"seed": 2}}, "epoch": 3, "step": 0, "changes": first}
    again = accept_changes(content, {**CONFIG, "run": {"seed": 3}}, allow=True)
    seeds = [(change["epoch"], change["settings"]["run.seed"]) for change in again]
    assert seeds == [(1, {"old": 1, "new": 2}), (3, {"old": 2, "new": 3})]
    assert accept_changes(content, content["config"], allow=False) == first
    with pytest.raises(ValueError, match=r"\n  run.seed: was 2, is 4\n.*run.resume_changes: allow"):
        accept_changes(content, {**CONFIG, "run": {"seed": 4}}, allow=False)
