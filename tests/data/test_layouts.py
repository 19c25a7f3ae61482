"""COCO's and Karpathy's files, JSON under the other suffix, paths in two columns, and several image folders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from PIL import Image

from lavis_mafa.data.annotations import read_annotations
from lavis_mafa.data.identity import image_id
from lavis_mafa.data.images import BadImageError, ImageFiles, open_image, relative_path
from lavis_mafa.data.records import RecordTable
from lavis_mafa.mining.annotate import write_connected

COCO: dict[str, Any] = {
    "info": {"year": 2014},
    "images": [{"id": 7, "file_name": "a.jpg"}, {"id": 8, "file_name": "b.jpg"}],
    "annotations": [
        {"id": 1, "image_id": 8, "caption": "b one"},
        {"id": 2, "image_id": 7, "caption": "a one"},
        {"id": 3, "image_id": 8, "caption": "b two"},
    ],
}
KARPATHY: dict[str, Any] = {
    "dataset": "x",
    "images": [
        {
            "filename": "a.jpg",
            "filepath": "val2014",
            "split": "train",
            "cocoid": 7,
            "imgid": 0,
            "sentences": [{"raw": "a"}],
        },
        {
            "filename": "b.jpg",
            "filepath": "val2014",
            "split": "restval",
            "cocoid": 8,
            "sentences": [{"raw": "b"}, {"raw": "c"}],
        },
        {"filename": "c.jpg", "split": "test", "imgid": 2, "sentences": [{"raw": "d"}]},
    ],
}


def written(path: Path, value: object, **options: Any) -> Path:
    path.write_text(json.dumps(value, **options), encoding="utf-8")
    return path


@pytest.mark.parametrize("options", [{}, {"indent": 1}])
def test_coco_captions(tmp_path: Path, options: dict[str, Any]) -> None:
    assert read_annotations(written(tmp_path / "captions.json", COCO, **options)).to_pylist() == [
        {"image": "a.jpg", "caption": ["a one"], "image_id": "7"},
        {"image": "b.jpg", "caption": ["b one", "b two"], "image_id": "8"},
    ]


def test_karpathy_gives_each_split_its_images(tmp_path: Path) -> None:
    file = written(tmp_path / "dataset_coco.json", KARPATHY)
    assert read_annotations(file, "train").to_pylist() == [
        {"image": "val2014/a.jpg", "caption": ["a"], "image_id": "7"},
        {"image": "val2014/b.jpg", "caption": ["b", "c"], "image_id": "8"},
    ]
    assert read_annotations(file, "test").to_pylist() == [{"image": "c.jpg", "caption": ["d"], "image_id": "2"}]
    assert read_annotations(file).num_rows == 3
    with pytest.raises(ValueError, match=r"dataset_coco\.json: it has no split 'val'; .* restval, test, train"):
        read_annotations(file, "val")


FAULTS = {
    "instances": (
        {"images": [{"id": 1}], "annotations": [{"image_id": 1, "bbox": []}]},
        "annotation 1 has no image_id or no",
    ),
    "stranger": ({**COCO, "annotations": [{"image_id": 9, "caption": "x"}]}, "image_id 9, which its images lack"),
    "silent": ({**COCO, "annotations": COCO["annotations"][:1]}, "image 1: 'caption' is an empty list"),
    "nameless": ({**COCO, "images": [{"id": 7}, {"id": 8}]}, "image 1: 'image' must be a non-empty string"),
    "sentence": (
        {"images": [{"filename": "a", "sentences": [{"tokens": []}]}]},
        "image 1: 'caption' must be a non-empty",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_faults_of_a_layout_are_named(tmp_path: Path, name: str) -> None:
    document, message = FAULTS[name]
    with pytest.raises(ValueError, match=message):
        read_annotations(written(tmp_path / "x.json", document))


@pytest.mark.parametrize("suffix", [".json", ".jsonl"])
def test_lines_lists_and_single_rows_are_read_under_either_suffix(tmp_path: Path, suffix: str) -> None:
    file, row = tmp_path / f"x{suffix}", {"image": "a", "caption": "x", "objects": [{"box": 1}]}
    one = [{"image": "a", "caption": ["x"], "image_id": None}]
    for text, rows in {
        json.dumps(row): one,
        json.dumps(row, indent=1): one,
        f"{json.dumps(row)}\n\n{json.dumps(row)}": one * 2,
        json.dumps([row, row], indent=1): one * 2,
    }.items():
        file.write_text(text)
        assert read_annotations(file).to_pylist() == rows
    file.write_text(json.dumps(row, indent=1)[:-3])
    with pytest.raises(ValueError, match="broken JSON at line"):
        read_annotations(file)
    file.write_text(f"{json.dumps(COCO)}\n{json.dumps(row)}")
    with pytest.raises(ValueError, match="line 1: no image column"):
        read_annotations(file)
    file.write_text("[" * 100_000)
    with pytest.raises(ValueError, match="nested too deeply|broken JSON"):
        read_annotations(file)


def test_a_folder_beside_a_file_name_is_part_of_the_path(tmp_path: Path) -> None:
    rows = [
        {"filename": "a.jpg", "filepath": "images", "caption": "x"},
        {"filename": "b.jpg", "filepath": "", "caption": "y"},
    ]
    assert read_annotations(written(tmp_path / "x.json", rows))["image"].to_pylist() == ["images/a.jpg", "b.jpg"]
    rows = [{"file_name": "a.jpg", "filepath": "images/a.jpg", "caption": "x"}]
    assert read_annotations(written(tmp_path / "x.json", rows))["image"].to_pylist() == ["images/a.jpg"]
    rows = [{"filepath": "images/a.jpg", "caption": "x"}]
    assert read_annotations(written(tmp_path / "x.json", rows))["image"].to_pylist() == ["images/a.jpg"]


@pytest.mark.parametrize("document", [COCO, KARPATHY])
def test_connections_are_added_in_the_layout_they_came_in(tmp_path: Path, document: dict[str, Any]) -> None:
    source, target = written(tmp_path / "x.json", document), tmp_path / "out.json"
    assert write_connected(source, target, {image_id("data", "8"): ["new", "newer"]}, "data", {}) == 2
    found, rows = json.loads(target.read_text()), read_annotations(target).to_pylist()
    assert {**found, "annotations": 0, "images": 0} == {
        **document,
        "annotations": 0,
        "images": 0,
    } or "annotations" not in document
    assert next(row for row in rows if row["image_id"] == "8")["caption"][-2:] == ["new", "newer"]
    assert len(rows) == len(document["images"])
    if document is COCO:
        assert found["annotations"][3:] == [
            {"image_id": 8, "id": 4, "caption": "new"},
            {"image_id": 8, "id": 5, "caption": "newer"},
        ]


def test_ids_of_captions_may_be_anything_where_connections_are_added(tmp_path: Path) -> None:
    annotations = [{"image_id": 7, "caption": "a", "id": "x1"}, {"image_id": 8, "caption": "b"}]
    source = written(tmp_path / "x.json", {**COCO, "annotations": annotations})
    assert write_connected(source, tmp_path / "out.json", {image_id("data", "8"): ["new"]}, "data", {}) == 1
    added = json.loads((tmp_path / "out.json").read_text())["annotations"]
    assert added == [*annotations, {"image_id": 8, "id": 1, "caption": "new"}]


def test_several_image_folders_and_absolute_paths(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two" / "deep"
    for folder, names in ((one, "ac"), (two, "bc")):
        folder.mkdir(parents=True)
        for name in names:
            Image.new("RGB", (3 if folder == one else 4, 2)).save(folder / f"{name}.png")
    roots = [str(one), str(tmp_path / "two"), str(two)]
    rows = [
        {"image": "a.png", "caption": "x"},
        {"image": f"{two}/b.png", "caption": "y"},
        {"image": f"{one}//a.png", "caption": "z"},
    ]
    table = RecordTable.from_rows(read_annotations(written(tmp_path / "x.json", rows)), "data", root=roots)
    assert table.images.to_pylist() == ["a.png", "b.png"] and table.captions.to_pylist() == ["x", "z", "y"]
    images = ImageFiles(roots, table.images, "split val (x.json)")
    assert [images(record).width for record in range(2)] == [3, 4]
    with pytest.raises(BadImageError, match=r"image c\.png is both .*one/c\.png and .*deep/c\.png"):
        open_image(roots, "c.png")
    with pytest.raises(BadImageError, match=r"no image file d\.png below .*one, "):
        open_image(roots, "d.png")
    for path in ("/etc/a.png", "../a.png", f"{one}/../a.png", f"{one}x/a.png"):
        with pytest.raises(ValueError, match="leads outside the image folder"):
            relative_path(roots, path)
    with pytest.raises(BadImageError, match=r"split val \(x\.json\): no image file gone\.png below"):
        ImageFiles(roots, pa.array(["gone.png"]), "split val (x.json)")(0)


def test_a_file_under_several_ids_is_one_image() -> None:
    rows = {
        "image": ["a.png", "b.png", "./a.png", "a.png"],
        "caption": [["one"], ["two"], ["three"], ["four"]],
        "image_id": ["1", "2", "3", None],
    }
    table = RecordTable.from_rows(pa.table(rows), "data")
    assert table.images.to_pylist() == ["a.png", "b.png"]
    assert table.image_id.tolist() == [image_id("data", "1"), image_id("data", "2")]
    assert table.captions.to_pylist() == ["one", "three", "four", "two"]
    one = RecordTable.from_rows(pa.table(rows), "data", one_caption_a_record=True)
    assert one.image_id.tolist() == [table.image_id[0], table.image_id[1], table.image_id[0], table.image_id[0]]
