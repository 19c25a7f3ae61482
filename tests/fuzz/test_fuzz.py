"""Broken and hostile inputs end in a clear error, or in a result that counts every row. Never in a traceback, never in
rows that are lost without a word; and nothing that the program did not write is changed.

LAVIS_MAFA_FUZZ: examples of each kind, 300 by night (.ci/nightly).
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from omegaconf import OmegaConf

import lavis_mafa
from lavis_mafa import train
from lavis_mafa.data.__main__ import main as check
from lavis_mafa.data.annotations import read_annotations
from lavis_mafa.models.weights import read_state_dict
from tests.fuzz.hostile import GOOD_IMAGES, GOOD_KINDS, DataSet, Weights, changes, data_sets, weights, write_images

EXAMPLES = int(os.environ.get("LAVIS_MAFA_FUZZ", "20"))
FUZZ = settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture],
)
VIEW = {"name": "blip_image_eval", "image_size": 48, "mean": 0.5, "std": 0.5}


@pytest.fixture(scope="module", autouse=True)
def registered() -> Iterator[None]:
    lavis_mafa.register()
    level = logging.getLogger().level
    yield
    logging.getLogger().setLevel(level)


@contextmanager
def world() -> Iterator[Path]:
    """A folder with images, and one beside it that belongs to somebody else."""
    folder = Path(tempfile.mkdtemp(prefix="fuzz"))
    try:
        write_images(folder / "images")
        (folder / "theirs").mkdir()
        (folder / "theirs" / "results.json").write_text("{}")
        (folder / "run").mkdir()
        yield folder
    finally:
        shutil.rmtree(folder)


def hashes(folder: Path) -> dict[str, str]:
    """Of every file but those in out/, where the program writes."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if not name.startswith(("out/", "run/output")) and path.is_file() and not path.is_symlink():
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def config(folder: Path, annotation: Path) -> dict[str, object]:
    processors = {"vis_processor": {"train": VIEW, "eval": VIEW}}
    data = {"images": str(folder / "images"), "annotations": {"train": str(annotation)}, **processors}
    run = {"batch_size_train": 1, "max_epoch": 1, "warmup_steps": 1, "device": "cpu", "test_splits": []}
    model = {"arch": "mafa_blip2", "model_type": "scenes", "mafa": {"action": "keep"}}
    return {"run": {**run, "output_dir": str(folder / "out")}, "model": model, "datasets": {"image_text": data}}


def ended(command: Callable[[], object], monkeypatch: pytest.MonkeyPatch, folder: Path, *words: str) -> int | str:
    """The exit code or the error of a command in this process; whatever else it raises fails the test."""
    with monkeypatch.context() as patched:
        patched.setattr(sys, "argv", ["lavis-mafa", *words])
        patched.chdir(folder / "run")
        try:
            code = command()
        except SystemExit as end:
            code = end.code
    if isinstance(code, str):
        assert code.startswith("error: ") and len(code) > 20 and "Traceback" not in code, code
        return code
    return int(code) if isinstance(code, int) else 0


@FUZZ
@given(data_sets())
def test_annotations_and_images(monkeypatch: pytest.MonkeyPatch, data: DataSet) -> None:
    with world() as folder:
        annotation = data.write(folder)
        (folder / "run.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create(config(folder, annotation))))
        before = hashes(folder)
        _read(annotation, data)
        _check(monkeypatch, folder, data)
        code = ended(train.main, monkeypatch, folder, "--cfg-path", str(folder / "run.yaml"), "--dry-run")
        if data.all_good and data.rows:
            assert code == 0, code
        assert hashes(folder) == before


def _read(annotation: Path, data: DataSet) -> None:
    """The reader takes every row or says which it cannot take."""
    try:
        rows = read_annotations(str(annotation))
    except ValueError as error:
        assert annotation.name in str(error)
        assert not (data.all_good and data.rows), error
        return
    if data.is_whole:
        assert rows.num_rows == len(data.rows)


def _check(monkeypatch: pytest.MonkeyPatch, folder: Path, data: DataSet) -> None:
    """Every row is kept or a problem; what is good is kept."""
    words = ["check", "--cfg-path", str(folder / "run.yaml"), "--output", str(folder / "out"), "--workers", "1"]
    code = ended(lambda: check(words), monkeypatch, folder)
    assert code in (0, 1), code
    report = json.loads((folder / "out" / "report.json").read_text())["train"]
    of_rows = [problem for problem in report["problems"] if problem["kind"] in ("row", "id")]
    faulty = len(of_rows) + sum(report["rows_without_image"].values())  # an image is a problem once
    assert report["kept_rows"] + faulty == report["rows"]
    cleaned = (folder / "out" / "train_clean.jsonl").read_text().splitlines()
    assert len(cleaned) == report["kept_rows"] and (code == 0) == (not report["problems"])
    if data.is_whole and not any(problem["kind"] == "file" for problem in report["problems"]):
        assert report["rows"] == len(data.rows)
    if data.all_good and data.rows:
        assert report["kept_rows"] == len(data.rows) and code == 0, report["problems"]


@FUZZ
@given(changes)
def test_configs(monkeypatch: pytest.MonkeyPatch, changed: list[tuple[str, object]]) -> None:
    with world() as folder:
        (folder / "train.json").write_text(json.dumps([{"image": name, "caption": name} for name in GOOD_IMAGES]))
        given = OmegaConf.create(config(folder, folder / "train.json"))
        for key, value in changed:
            try:
                OmegaConf.update(given, key, value, force_add=True)
            except Exception:  # below a value that is no section
                continue
        (folder / "run.yaml").write_text(OmegaConf.to_yaml(given))
        before = hashes(folder)
        for command, *words in ((train.main, "--dry-run"), (check, "check")):
            named = [*words, "--cfg-path", str(folder / "run.yaml")] + ["--workers", "1"] * (command is check)
            output = ["--output", str(folder / "out")] * (command is check)
            ended(command, monkeypatch, folder, *named, *output)
        assert hashes(folder) == before


@FUZZ
@given(weights)
def test_checkpoints(given: Weights) -> None:
    with world() as folder:
        canary = folder / "canary"
        path = given.write(folder, canary)
        before = hashes(folder)
        try:
            state = read_state_dict(path)
        except ValueError as error:
            assert path.name in str(error) and len(str(error)) > 20
            is_right = given.kind in GOOD_KINDS and (given.kind == "safetensors") == (given.suffix == ".safetensors")
            assert not (given.corruption == "none" and is_right), error
        else:
            assert given.kind in GOOD_KINDS or given.kind == "numbers"
            assert all(isinstance(value, torch.Tensor) and not value.isnan().any() for value in state.values())
            if given.corruption == "none":
                assert {name: tuple(value.shape) for name, value in state.items()} == {
                    "layer.weight": (2, 3),
                    "layer.bias": (2,),
                }
        assert not canary.exists(), "code in a checkpoint has run"
        assert hashes(folder) == before


@settings(FUZZ, max_examples=max(2, EXAMPLES // 15))
@given(data_sets(mostly_good=True))
def test_two_steps_of_training_take_every_row(monkeypatch: pytest.MonkeyPatch, data: DataSet) -> None:
    with world() as folder:
        annotation = data.write(folder)
        values = config(folder, annotation)
        records = len({image for image, *_ in data.rows})
        values["run"] |= {"batch_size_train": max(1, records // 2)}  # type: ignore[operator]
        (folder / "run.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create(values)))
        before = hashes(folder)
        code = ended(train.main, monkeypatch, folder, "--cfg-path", str(folder / "run.yaml"))
        if not data.rows:
            assert isinstance(code, str) and annotation.name in code
        else:
            assert code == 0, code
            steps = [json.loads(line) for line in (folder / "out" / "steps.jsonl").read_text().splitlines()]
            assert len(steps) == records // max(1, records // 2)
        assert hashes(folder) == before
