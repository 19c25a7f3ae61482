"""`python -m lavis_mafa.data check` on a data set that has everything wrong with it, and on one that is well."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lavis_mafa.data.__main__ import main
from lavis_mafa.data.annotations import read_annotations
from lavis_mafa.data.check import COPIES
from lavis_mafa.data.dataset import PairDataset
from lavis_mafa.data.images import ImageFiles
from lavis_mafa.data.records import RecordTable
from lavis_mafa.runners.bad_images import name_bad_images

SCRIPTS = ["一只狗", "كلب أحمر", "собака", "ein Hündchen", "👩‍👩‍👧 🐕", "कुत्ता"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Images that are well in every mode, and images that are not."""
    root = tmp_path / "images"
    root.mkdir()
    Image.new("RGB", (9, 8), "red").save(root / "rgb.jpg")
    Image.new("CMYK", (9, 8)).save(root / "cmyk.jpg")
    Image.new("P", (9, 8)).save(root / "palette.png")
    Image.fromarray(np.full((8, 9), 40_000, np.uint16)).save(root / "16bit.png")
    frames = [Image.new("RGB", (9, 8), colour) for colour in ("red", "blue")]
    frames[0].save(root / "animated.gif", save_all=True, append_images=frames[1:])
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.new("RGB", (8, 9), "red").save(root / "turned.jpg", exif=turned)
    (root / "empty.jpg").touch()
    (root / "text.jpg").write_text("no image")
    whole = (root / "rgb.jpg").read_bytes()
    (root / "truncated.jpg").write_bytes(whole[: len(whole) // 2])
    Image.new("L", (400, 300)).save(root / "bomb.png")
    return tmp_path


def config(folder: Path, annotation: Path, batch_size: int = 2) -> list[str]:
    path = folder / "run.yaml"
    path.write_text(
        f"run: {{batch_size_train: {batch_size}}}\n"
        f"datasets: {{image_text: {{images: {folder / 'images'}, annotations: {{train: {annotation}}}}}}}\n"
    )
    return ["check", "--cfg-path", str(path), "--output", str(folder / "out"), "--workers", "2"]


def write(folder: Path, lines: list[object]) -> Path:
    path = folder / "train.jsonl"
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return path


def report(folder: Path) -> dict[str, object]:
    return json.loads((folder / "out" / "report.json").read_text())["train"]


GOOD = [
    {"image": "rgb.jpg", "caption": "a red page", "image_id": 7, "source": "us"},
    {"image": "cmyk.jpg", "caption": ["black", "BLACK "], "image_id": "k"},
    {"image": "palette.png", "caption": "word " * 2000},
    {"image": "./16bit.png", "caption": SCRIPTS},
    {"image": "animated.gif", "caption": "red, then blue"},
    {"image": "turned.jpg", "caption": "a red page on its side"},
]
BAD = {  # line → kind, part of the message
    '{"image": "rgb.jpg", "caption": ': ("row", "broken JSON"),
    '["rgb.jpg", "a caption"]': ("row", "must be an object"),
    '{"image": "rgb.jpg", "caption": "  ", "image_id": 7}': ("row", "non-empty"),
    '{"image": "rgb.jpg", "image_id": 7}': ("row", "caption"),
    '{"image": "rgb.jpg", "caption": ["a", null], "image_id": 7}': ("row", "non-empty"),
    '{"image": "cmyk.jpg", "caption": "two images", "image_id": 7}': ("id", "'7' belongs to two images"),
    '{"image": "no.jpg", "caption": "x"}': ("image", "no image file"),
    '{"image": "empty.jpg", "caption": "x"}': ("image", "zero bytes"),
    '{"image": "text.jpg", "caption": "x"}': ("image", "cannot be read"),
    '{"image": "truncated.jpg", "caption": "x"}': ("image", "cannot be read"),
    '{"image": "bomb.png", "caption": "x"}': ("image", "decompression bomb"),
    '{"image": "../run.yaml", "caption": "x"}': ("image", "leads outside"),
    '{"image": "/etc/hostname", "caption": "x"}': ("image", "leads outside"),
}


def test_every_fault_is_named_and_the_rest_is_kept(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = [line for pair in zip(BAD, [""] * len(BAD), strict=True) for line in pair]  # with empty lines between
    limit = ["--options", "datasets.image_text.max_pixels=90000"]
    assert main([*config(folder, write(folder, [*GOOD, *bad])), *limit]) == 1
    found = report(folder)
    assert [(p["place"], p["kind"]) for p in sorted(found["problems"], key=lambda p: int(p["place"].split()[1]))] == [
        (f"line {len(GOOD) + 1 + 2 * i}", kind) for i, (kind, _) in enumerate(BAD.values())
    ]
    by_place = {problem["place"]: problem["message"] for problem in found["problems"]}
    for i, (_, part) in enumerate(BAD.values()):
        assert part in by_place[f"line {len(GOOD) + 1 + 2 * i}"]
    assert (found["rows"], found["kept_rows"], found["records"]) == (len(GOOD) + len(BAD), len(GOOD), len(GOOD))
    assert found["modes"] == {"RGB": 2, "CMYK": 1, "P": 2, "I;16": 1}
    assert sorted(found["notes"].values()) == [1, 1, 1, 1]  # long, repeated, animated, turned
    printed = capsys.readouterr().out
    assert "zero bytes" in printed and "problems with image: 7" in printed
    assert (folder / "out" / "report.txt").read_text() in printed

    cleaned = [json.loads(line) for line in (folder / "out" / "train_clean.jsonl").read_text().splitlines()]
    assert cleaned == GOOD  # all columns, to the letter
    table = RecordTable.from_rows(read_annotations(folder / "out" / "train_clean.jsonl"), dataset="x")
    dataset = PairDataset(table, ImageFiles(str(folder / "images"), table.images), np.asarray, str, 0, augmented=False)
    assert len([dataset[i] for i in range(len(dataset))]) == len(GOOD)


def test_half_a_character_in_another_column_is_kept(folder: Path) -> None:
    rows = [{**row, "user": "ü \ud83d"} for row in GOOD]
    assert main(config(folder, write(folder, rows))) == 0
    assert [json.loads(line) for line in (folder / "out" / "train_clean.jsonl").read_text().splitlines()] == rows


def test_half_a_character_in_a_path_or_a_caption_is_a_problem(folder: Path) -> None:
    bad = [{"image": "rgb\ud83d.jpg", "caption": "x"}, {"image": "rgb.jpg", "caption": "x \ud83d"}]
    assert main(config(folder, write(folder, [*GOOD, *bad]))) == 1
    assert [problem["kind"] for problem in report(folder)["problems"]] == ["row", "row"]


def test_a_data_set_that_is_well(folder: Path) -> None:
    assert main(config(folder, write(folder, GOOD))) == 0
    assert report(folder)["problems"] == []
    assert main(config(folder, write(folder, GOOD), batch_size=7)) == 1
    assert [problem["kind"] for problem in report(folder)["problems"]] == ["batch"]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.jsonl", "", "no rows"),
        ("a.json", '[{"image": "rgb.jpg", "caption": "x"},\n {"image": ', "line 2"),
        ("a.csv", "picture,caption\nrgb.jpg,x\n", "no image column"),
        ("a.csv", b"image,caption\nrgb.jpg,\xff\xfe\n", "utf-8"),
        ("a.csv", "<html>quota</html>", "is a web page"),
        ("a.xml", "<a/>", "unknown suffix"),
        ("b.json", None, "no such annotation file"),
    ],
)
def test_a_file_that_cannot_be_read_is_a_problem(
    folder: Path, name: str, text: str | bytes | None, message: str
) -> None:
    if text is not None:
        (folder / name).write_bytes(text.encode() if isinstance(text, str) else text)
    assert main(config(folder, folder / name, batch_size=1)) == 1
    first = report(folder)["problems"][0]
    assert first["kind"] == "file" and message in first["message"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["datasets.image_text.images=/no/such"], "no folder at"),
        (["datasets.image_text.annotations.train=${oc.env:LAVIS_MAFA_CACHE}/a.json"], "export LAVIS_MAFA_CACHE="),
        (["datasets.scenes.seed=1"], "rendered"),
        (["nonsense"], "key=value"),
    ],
)
def test_a_wrong_command_is_reported(
    folder: Path, options: list[str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LAVIS_MAFA_CACHE", raising=False)
    with pytest.raises(SystemExit, match=message):
        main([*config(folder, write(folder, GOOD)), "--options", *options])


def test_replaced_images_are_named_once(folder: Path) -> None:
    table = RecordTable.from_rows(
        read_annotations(write(folder, [*GOOD, '{"image": "empty.jpg", "caption": "x"}'])), "x"
    )
    opener = ImageFiles(str(folder / "images"), table.images)
    for _ in range(2):  # as on a resume
        dataset = PairDataset(table, opener, np.asarray, str, 0, augmented=False, on_bad_image="replace")
        assert len([dataset[i] for i in range(len(dataset))]) == len(dataset) == 7  # nothing is lost
        assert name_bad_images(dataset, folder, rank=1) == 1
    assert (folder / "bad_images_rank1.txt").read_text() == "empty.jpg\n"


def test_copies_of_an_image_are_counted(folder: Path) -> None:
    """A copy, a link to the file, and one of the same size with other bytes."""
    images = folder / "images"
    content = (images / "rgb.jpg").read_bytes()
    (images / "copy.jpg").write_bytes(content)
    (images / "link.jpg").symlink_to(images / "rgb.jpg")
    (images / "other.jpg").write_bytes(content + b"1")
    (images / "another.jpg").write_bytes(content + b"2")
    names = ("rgb", "copy", "link", "other", "another")
    rows = [{"image": f"{name}.jpg", "caption": name} for name in names]
    assert main(config(folder, write(folder, rows))) == 0
    assert report(folder)["notes"] == {COPIES: 2}


def test_an_image_is_a_problem_once_however_many_captions_it_has(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"image": "empty.jpg", "caption": f"caption {n}"} for n in range(3)]
    assert main(config(folder, write(folder, [*GOOD, *rows]))) == 1
    assert [problem["place"] for problem in report(folder)["problems"]] == [f"line {len(GOOD) + 1}"]
    printed = capsys.readouterr().out
    assert "problems with image: 1 in 3 rows" in printed and "without problems: train_clean.jsonl" in printed


def test_where_nothing_is_left_nothing_is_claimed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "a.csv").write_text("picture,caption\nrgb.jpg,x\n")
    assert main(config(folder, folder / "a.csv", batch_size=7)) == 1
    assert [problem["kind"] for problem in report(folder)["problems"]] == ["file"]  # nothing of the size of a batch
    assert "no row is without problems" in capsys.readouterr().out


def test_an_output_folder_of_the_run_is_refused(folder: Path) -> None:
    with pytest.raises(SystemExit, match="run.output_dir=x: the report and the cleaned files go to --output"):
        main([*config(folder, write(folder, GOOD)), "--options", "run.output_dir=x"])


def test_images_of_several_folders_and_ids(folder: Path) -> None:
    """Two folders, an absolute path, an image under two ids, and a split that is null."""
    (folder / "more").mkdir()
    Image.new("RGB", (9, 8)).save(folder / "more" / "other.png")
    rows = [
        {"image": "rgb.jpg", "caption": "a", "image_id": 1},
        {"image": f"{folder}/images/rgb.jpg", "caption": "A", "image_id": 2},
        {"image": f"{folder}/more/other.png", "caption": "b"},
        {"image": "other.png", "caption": "c", "image_id": 3},
    ]
    options = [
        f"datasets.image_text.images=[{folder}/images, {folder}/more]",
        "datasets.image_text.annotations.val=null",
    ]
    assert main([*config(folder, write(folder, rows)), "--options", *options]) == 0
    found = report(folder)
    assert (found["rows"], found["records"], found["captions"]) == (4, 2, 4)
    assert found["notes"] == {
        "repetitions of a caption by the same image, kept once": 1,
        "images that stand under several ids, read as one with the captions of all": 2,
    }
    assert "val" not in json.loads((folder / "out" / "report.json").read_text())
    with pytest.raises(SystemExit, match="annotations is empty"):
        main([*config(folder, write(folder, rows)), "--options", "datasets.image_text.annotations.train=null"])


def test_each_split_of_karpathy_is_checked_by_itself(folder: Path) -> None:
    file = folder / "dataset.json"
    images = [{"filename": f"{n}.jpg", "split": n, "imgid": 0, "sentences": [{"raw": n}]} for n in ("train", "val")]
    file.write_text(json.dumps({"images": images}))
    for name in ("train", "val"):
        Image.new("RGB", (9, 8)).save(folder / "images" / f"{name}.jpg")
    options = ["--options", f"datasets.image_text.annotations.val={file}"]
    assert main([*config(folder, file, batch_size=1), *options]) == 0
    written = json.loads((folder / "out" / "report.json").read_text())
    assert {split: found["rows"] for split, found in written.items()} == {"train": 1, "val": 1}


def test_neither_the_terminal_nor_the_report_obeys_a_path(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = {"image": "\x1b]0;owned\x07.jpg", "caption": "x"}
    assert main(config(folder, write(folder, [*GOOD, bad]))) == 1
    printed = capsys.readouterr().out
    assert r"\x1b]0;owned\x07.jpg" in printed
    for text in (printed, (folder / "out" / "report.txt").read_text()):
        assert text.replace("\n", "").isprintable()
