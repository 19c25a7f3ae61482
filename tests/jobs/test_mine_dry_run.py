"""`mine --dry-run`: it reads what the job reads, refuses what the job refuses, and leaves nothing behind."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from PIL import Image

from lavis_mafa.mining_job import job

ROOT = Path(__file__).resolve().parents[2]
PLAIN = """
run: {{split: train, output_dir: {0}/out, retrievers: [judge], device: cpu, range_max: 3,
      con_d: {{arch: captions, encoder: {0}/encoder}}}}
datasets: {{image_text: {{images: {0}, annotations: {{train: {0}/train.csv}}}}}}
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    for name in ("a.png", "b.png"):
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    (tmp_path / "train.csv").write_text("image,caption\na.png,a cat\nb.png,two dogs\n")
    (tmp_path / "encoder").mkdir()
    (tmp_path / "run.yaml").write_text(PLAIN.format(tmp_path))
    return tmp_path / "run.yaml"


def ended(monkeypatch: pytest.MonkeyPatch, config: Path, *options: str) -> int:
    words = ["mine", "--cfg-path", str(config), "--dry-run", *(("--options", *options) if options else ())]
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit) as ended:
        job.main()
    return int(ended.value.code or 0)


def test_a_job_that_can_start(
    config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(config.parent.rglob("*"))
    assert ended(monkeypatch, config) == 0
    printed = capsys.readouterr().out
    assert "image_text, split train: 2 images, 2 distinct captions" in printed
    assert "pairs to judge: at most 2 candidates and 2 annotated" in printed and "nothing is missing" in printed
    assert sorted(config.parent.rglob("*")) == before, "a dry run writes nothing"


def test_what_is_missing_is_named(
    config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (config.parent / "encoder").rmdir()
    (config.parent / "b.png").write_bytes(b"")
    assert ended(monkeypatch, config) == 1
    printed = capsys.readouterr().out
    assert f"run.con_d.encoder: nothing at {config.parent}/encoder" in printed and "b.png is empty" in printed
    assert "1 of 2 images are missing or empty, the first b.png" in printed


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("run.split=val", "run.split is 'val'"),
        ("run.review=none.csv", "run.review: no file at none.csv"),
        ("run.judged_pairs=none.csv", "none.csv"),
        ("run.range_max=0", "range_max"),
    ],
)
def test_what_the_job_refuses_is_refused(
    config: Path, monkeypatch: pytest.MonkeyPatch, option: str, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        ended(monkeypatch, config, option)


def test_a_folder_of_somebody_else_is_refused(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (config.parent / "out").mkdir()
    (config.parent / "out" / "suspects.csv").write_text("mine\n")
    with pytest.raises(ValueError, match="suspects.csv, which this program did not write"):
        ended(monkeypatch, config)


def test_of_scenes_with_a_network_of_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    scenes = ROOT / "projects" / "mafa" / "mine" / "mine_scenes.yaml"
    small = ("datasets.scenes.splits.train.n=12", f"run.output_dir={tmp_path}/out")
    assert ended(monkeypatch, scenes, *small) == 0
    assert "scenes, split train: 12 images" in capsys.readouterr().out and not (tmp_path / "out").exists()
