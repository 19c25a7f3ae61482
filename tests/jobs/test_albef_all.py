"""run_scripts/mafa/albef_all.sh and eval_albef_retrieval.sh as a user runs them, shortened by the smoke preset."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.jobs.commands import run

PARTS = ("pretrain", "vqa", "assign", "nlvr")


@pytest.fixture(scope="module")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("albef")
    run("bash", "run_scripts/mafa/albef_all.sh", "--smoke", str(folder))
    return folder / "output" / "mafa"


def results(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "results.json").read_text())
    return found


def test_each_part_starts_from_the_one_before(smoke: Path) -> None:
    found = {part: results(smoke / "albef_all" / part) for part in PARTS}
    assert {"itc", "itm", "at_r"} <= set(found["pretrain"]["retrieval"])
    assert found["pretrain"]["connections"]["pairs_scored"] > 0
    for part, source in (("vqa", "pretrain"), ("assign", "pretrain"), ("nlvr", "assign")):
        assert found[part]["weights"]["text_encoder"].endswith(f"albef_all/{source}/model.safetensors"), part
    for part in ("vqa", "nlvr"):
        assert 0 <= found[part]["answers"]["test"]["all"] <= 100


def test_zero_shot_retrieval_is_what_pre_training_ended_with(smoke: Path) -> None:
    checkpoint = smoke / "albef_all" / "pretrain" / "model.safetensors"
    printed = run("bash", "run_scripts/mafa/eval_albef_retrieval.sh", str(checkpoint), "--smoke", str(smoke.parents[1]))
    found = results(smoke / "albef_zero_shot_scenes")
    assert found["retrieval"] == results(smoke / "albef_all" / "pretrain")["retrieval"]
    assert str(checkpoint) in found["weights"]["text_encoder"] and "re-ranked by ITM" in printed
