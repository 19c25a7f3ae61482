"""The guide's way for one's own images: a CSV, photographs and a sentence encoder, nothing trained and no LAVIS."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from PIL import Image

from lavis_mafa.mining_job import calibrate
from lavis_mafa.mining_job import job as mine
from lavis_mafa.mining_job.report import _quality
from tests.tiny_text import save_encoder

CONFIG = Path(__file__).resolve().parents[2] / "projects" / "mafa" / "mine" / "mine_captions.yaml"
CAPTIONS = ("a dog runs", "the dog runs on grass", "a cat sits", "the cat sleeps on grass", "a red car", "the blue car")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Photographs and a CSV as Windows writes it, with columns of other names."""
    save_encoder(tmp_path / "encoder")
    lines = ["filepath,title"]
    for number in range(12):
        Image.new("RGB", (8, 8), (20 * number, 0, 0)).save(tmp_path / f"{number}.png")
        lines += [f"{number}.png,{CAPTIONS[(number + step) % len(CAPTIONS)]}" for step in (0, 1)]
    (tmp_path / "mine.csv").write_bytes("\r\n".join([*lines, ""]).encode())
    return tmp_path


def arguments(folder: Path, *options: str) -> Namespace:
    given = [f"datasets.image_text.images={folder}", f"datasets.image_text.annotations.train={folder / 'mine.csv'}"]
    given += [f"run.con_d.encoder={folder / 'encoder'}", f"run.output_dir={folder / 'out'}", "run.range_max=5"]
    return Namespace(cfg_path=str(CONFIG), options=[*given, *options])


def mine_own(folder: Path, *options: str) -> dict[str, Any]:
    return mine.run(arguments(folder, *options))


def test_cosines_are_not_called_probabilities(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    check = mine_own(folder)["judge_check"]
    assert check["cosines"] and check["advice"].startswith("uncalibrated: the scores are cosines")
    printed = capsys.readouterr().out
    assert "uncalibrated" in printed and "run `lavis-mafa calibrate`" in printed and "P(match) of" not in printed


@pytest.mark.parametrize("spoil", [Path.unlink, lambda path: path.write_bytes(b"")], ids=["missing", "empty"])
def test_a_lost_image_is_reported_before_the_work(folder: Path, spoil: Any) -> None:
    spoil(folder / "7.png")
    message = r"1 of 12 images are missing or empty, the first 7\.png: `lavis-mafa check`"
    with pytest.raises(ValueError, match=message):
        mine_own(folder)
    assert not (folder / "out").exists()


def test_a_replacement_of_bad_images_is_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"on_bad_image is replace, .* train_clean\.jsonl"):
        mine_own(folder, "datasets.image_text.on_bad_image=replace")


def test_the_files_are_as_their_reader_expects_them(folder: Path) -> None:
    """Line ends as in the source; similarity of an annotated pair, a caption's to itself, is left out."""
    mine_own(folder, "run.low=0.99", "run.high=0.995")
    connected = (folder / "out" / "mine_connected.csv").read_bytes()
    assert connected.count(b"\r\n") == connected.count(b"\n") > 24
    suspects = pd.read_csv(folder / "out" / "suspects.csv")
    assert len(suspects) and suspects["similarity"].isna().all()
    review = pd.read_csv(folder / "out" / "review.csv", dtype=str)
    assert review.columns[0] == "label" and review["own_captions"].str.count(r" \| ").eq(1).all()


def test_a_weight_counts_in_the_calibration(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mine_own(folder)
    review = pd.read_csv(folder / "out" / "review.csv")
    review["label"] = (review["p"] > review["p"].median()).astype(int)
    review.assign(weight=1 + 8 * review["label"]).to_csv(folder / "labelled.csv", index=False)
    options = f"run.review={folder / 'labelled.csv'}", f"run.con_d.calibration={folder / 'calibration.json'}"
    found: Any = calibrate.run(arguments(folder, *options, "run.calibration_curve=isotonic"))
    matches = int(review["label"].sum())
    stand_for = 9 * matches + len(review) - matches
    assert found["labels"]["stand_for"] == stand_for and found["labels"]["matches"] == matches
    assert found["figures"]["base_rate"] == pytest.approx(9 * matches / stand_for)
    assert f"of the {stand_for:,} pairs that these stand for" in capsys.readouterr().out


def test_a_precision_says_what_it_is_of() -> None:
    figures: dict[str, Any] = {"labelled": 8, "weighted": True, "connections": 0, "precision": None, "base_rate": 0.25}
    text = _quality("labels", {**figures, "precision_95": None})
    assert text.startswith("against the labels (8 candidates, each weighted by the candidates that it stands for): ")
    assert text.endswith("no connection among them, where 25.0% of all match")
