import json

import pandas as pd
import pytest

from lavis_mafa.data.annotations import read_annotations
from lavis_mafa.data.identity import image_id
from lavis_mafa.data.records import RecordTable
from lavis_mafa.mining.annotate import write_connected

ROWS = [
    {"image": "a.jpg", "caption": "a dog, runs", "source": "web"},
    {"image": "./b.jpg", "caption": 'a "cat"', "source": "book"},
    {"image": "a.jpg", "caption": "an animal", "source": "web"},
]
NEW = {"a.jpg": ["zwei Tiere, größer"], "b.jpg": ["an animal", "a pet"]}


def connections():
    return {image_id("test", key): list(captions) for key, captions in NEW.items()}


def write(path, rows):
    frame = pd.DataFrame(rows)
    if path.suffix == ".json":
        path.write_text(json.dumps(rows))
    elif path.suffix == ".jsonl":
        path.write_text("\n".join(map(json.dumps, rows)))
    elif path.suffix == ".parquet":
        frame.to_parquet(path)
    else:
        frame.to_csv(path, index=False, sep="\t" if path.suffix == ".tsv" else ",")
    return path


@pytest.mark.parametrize("suffix", ["json", "jsonl", "csv", "tsv", "parquet"])
def test_connections_follow_the_first_row_of_their_image_in_every_format(tmp_path, suffix):
    source = write(tmp_path / f"train.{suffix}", ROWS)
    target = tmp_path / f"connected.{suffix}"
    assert write_connected(source, target, connections(), "test", {}) == 3
    rows = read_annotations(target)
    assert rows["image"].to_pylist() == ["a.jpg", "a.jpg", "./b.jpg", "./b.jpg", "./b.jpg", "a.jpg"]
    captions = [caption for (caption,) in rows["caption"].to_pylist()]
    assert captions == ["a dog, runs", "zwei Tiere, größer", 'a "cat"', "an animal", "a pet", "an animal"]
    table = RecordTable.from_rows(rows, "test")
    assert table.image_id.tolist() == [image_id("test", "a.jpg"), image_id("test", "b.jpg")]
    assert "book" in target.read_bytes().decode(errors="ignore")  # other columns stay


@pytest.mark.parametrize("suffix", ["json", "parquet"])
def test_lists_of_captions_grow_and_the_annotated_id_counts(tmp_path, suffix):
    rows = [
        {"path": "x/1.jpg", "image_id": 7, "text": ["one"]},
        {"path": "x/2.jpg", "image_id": 8, "text": ["two", "deux"]},
    ]
    target = tmp_path / f"connected.{suffix}"
    captions = {image_id("test", 8): ["zwei"]}
    assert (
        write_connected(write(tmp_path / f"t.{suffix}", rows), target, captions, "test", {"caption_key": "text"}) == 1
    )
    assert read_annotations(target)["caption"].to_pylist() == [["one"], ["two", "deux", "zwei"]]
    assert captions == {}


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "parquet"])
def test_a_list_written_as_text_grows(tmp_path, suffix):
    rows = [{"image": "1.jpg", "caption": str(["one"])}, {"image": "2.jpg", "caption": json.dumps(["two", "deux"])}]
    target = tmp_path / f"connected.{suffix}"
    captions = {image_id("test", "2.jpg"): ["größer"]}
    assert write_connected(write(tmp_path / f"t.{suffix}", rows), target, captions, "test", {}) == 1
    assert read_annotations(target)["caption"].to_pylist() == [["one"], ["two", "deux", "größer"]]


@pytest.mark.parametrize("suffix", ["json", "jsonl"])
def test_half_a_character_in_another_column_is_written_as_it_was(tmp_path, suffix):
    rows = [{**row, "user": "ü \ud83d"} for row in ROWS]
    source, target = tmp_path / f"t.{suffix}", tmp_path / f"connected.{suffix}"
    source.write_text(json.dumps(rows) if suffix == "json" else "\n".join(map(json.dumps, rows)))
    assert write_connected(source, target, connections(), "test", {}) == 3
    text = target.read_text(encoding="utf-8")
    found = json.loads(text) if suffix == "json" else [json.loads(line) for line in text.splitlines()]
    assert found[0] == rows[0]
    assert {row["user"] for row in found} == {"ü \ud83d"}


def test_an_image_in_two_files_gets_its_connections_once(tmp_path):
    captions = connections()
    added = [
        write_connected(write(tmp_path / f"{n}.json", ROWS), tmp_path / f"{n}_out.json", captions, "test", {})
        for n in (1, 2)
    ]
    assert added == [3, 0]
