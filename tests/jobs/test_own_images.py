"""The guide's way for one's own images: a CSV, photographs and a sentence encoder, nothing trained and no LAVIS."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from lavis_mafa.mining_job import job as mine
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


def mine_own(folder: Path, *options: str) -> dict[str, Any]:
    given = [f"datasets.image_text.images={folder}", f"datasets.image_text.annotations.train={folder / 'mine.csv'}"]
    given += [f"run.con_d.encoder={folder / 'encoder'}", f"run.output_dir={folder / 'out'}", "run.range_max=5"]
    return mine.run(Namespace(cfg_path=str(CONFIG), options=[*given, *options]))


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
