"""What a job does with folders that are in use, that are somebody else's, or that hold a training."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

import pytest

from lavis_mafa.common.folders import held
from lavis_mafa.common.hashing import file_sha256
from lavis_mafa.mining_job import job as mining
from tests.jobs.commands import ROOT
from tests.jobs.conftest import StartLife

SCENES = "projects/mafa/blip2/pretrain_stage1_scenes.yaml"
TINY = [
    "datasets.scenes.splits.train.n=16",
    "datasets.scenes.splits.val.n=8",
    "datasets.scenes.splits.test.n=8",
    "run.batch_size_train=8",
    "run.max_epoch=1",
    "run.search_space=16",
    "run.k_test=2",
    "run.warmup_steps=1",
    "run.cache_tokens=false",
]


MINE = str(ROOT / "projects" / "mafa" / "mine" / "mine_scenes.yaml")
Job = Callable[..., str]


@pytest.fixture(scope="module")
def job(start_life: StartLife, tmp_path_factory: pytest.TempPathFactory) -> Job:
    """job(*options, status=0): the last line that a training, or with run.evaluate an evaluation, printed."""
    log = tmp_path_factory.mktemp("logs") / "log.txt"

    def one(*options: str, status: int = 0) -> str:
        assert start_life(SCENES, [*TINY, *options], log) == status, log.read_text()[-3000:]
        return log.read_text().splitlines()[-1]

    return one


@pytest.fixture(scope="module")
def trained(job: Job, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained") / "run"
    job(f"run.output_dir={folder}")
    return folder


def results_of(folder: Path) -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = json.loads((folder / "results.json").read_text())
    return found


def mine(*options: str) -> None:
    mining.run(Namespace(cfg_path=MINE, options=["datasets.scenes.splits.train.n=8", *options]))


def test_evaluating_the_folder_of_a_training_evaluates_its_model_beside_it(job: Job, trained: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in trained.rglob("*") if path.is_file()}
    job(f"run.output_dir={trained}", "run.evaluate=true")
    theirs, ours = results_of(trained), results_of(trained / "evaluation")
    weights = trained / "model.safetensors"
    assert theirs["checkpoint"]["path"] == ours["checkpoint"]["path"] == str(weights)
    assert theirs["checkpoint"] == ours["checkpoint"] and ours["checkpoint"]["sha256"] == file_sha256(weights)
    assert ours["retrieval"] == theirs["retrieval"]
    assert {path: path.stat().st_mtime_ns for path in before} == before, "the training keeps what it wrote"


def test_a_training_that_has_not_ended_has_no_model_to_evaluate(job: Job, tmp_path: Path) -> None:
    job(f"run.output_dir={tmp_path}", "run.init_lr=1e30", "run.max_epoch=2", status=2)
    refused = job(f"run.output_dir={tmp_path}", "run.evaluate=true", status=1)
    assert "has not ended, so there is no model.safetensors; name the checkpoint" in refused


def test_weights_that_an_evaluation_names_are_those_that_it_reads(job: Job, trained: Path, tmp_path: Path) -> None:
    weights, here = trained / "model.safetensors", [f"run.output_dir={tmp_path / 'out'}", "run.evaluate=true"]
    job(*here, f"model.pretrained={weights}")
    checkpoint = results_of(tmp_path / "out")["checkpoint"]
    assert checkpoint["path"] == str(weights) and checkpoint["sha256"] == file_sha256(weights)
    assert "model.pretrained: no file at gone.pth" in job(*here, "model.pretrained=gone.pth", status=1)


def test_a_folder_in_use_is_refused(job: Job, trained: Path, tmp_path: Path) -> None:
    with held(trained, "train", "run.output_dir"):
        assert "is in use by process" in job(f"run.output_dir={trained}", status=1)
    with held(tmp_path, "cache", "run.cache_folder"):
        tokens = ["run.cache_tokens=true", f"run.token_folder={tmp_path}", f"run.output_dir={tmp_path / 'out'}"]
        assert "the folder of cached rows: " in job(*tokens, status=1)


def test_mining_replaces_nothing_of_others(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "gallery").mkdir()
    (tmp_path / "gallery" / "photograph.jpg").touch()
    (tmp_path / "suspects.csv").write_text("theirs")
    with pytest.raises(ValueError, match=r"contains gallery, suspects\.csv, which this program did not write"):
        mine(f"run.output_dir={tmp_path}")
    assert (tmp_path / "gallery" / "photograph.jpg").exists() and (tmp_path / "suspects.csv").read_text() == "theirs"
    with pytest.raises(ValueError, match="contains the results of `train`; choose another folder for `mine`"):
        mine(f"run.output_dir={trained}")
