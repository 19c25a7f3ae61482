"""Hostile sizes of what others annotated: a limit that is a setting or a named error, never hours or gigabytes."""

import io
import json
import time

import pyarrow as pa
import pyarrow.parquet
import pytest
from PIL import Image

from lavis_mafa.data.annotations import ROWS, read_annotations, written_list
from lavis_mafa.data.questions import read_questions
from lavis_mafa.data.records import RecordTable
from lavis_mafa.data.rules import MAX_CHARACTERS, FileRules, readable
from lavis_mafa.openclip_train.csv_table import read_pairs
from lavis_mafa.openclip_train.shard_decode import decoded
from lavis_mafa.reports.gallery import GalleryRow
from lavis_mafa.runners.report import gallery_row

MARKS = "a" + "\u0301\u0323" * 250_000  # 1 MB in UTF-8; bringing it to NFC takes many minutes


@pytest.mark.parametrize(
    "written", [{"allow_symlinks": "yes"}, {"max_pixels": 0}, {"max_pixels": True}, {"max_characters": 1.5}]
)
def test_a_rule_of_another_type_is_refused(written):
    with pytest.raises(ValueError, match=f"{next(iter(written))} is .*allowed is"):
        FileRules.of(written)
    assert FileRules.of({"max_pixels": 5, "max_characters": None, "other": 1}) == FileRules(max_pixels=5)


@pytest.mark.parametrize("suffix", ["json", "jsonl", "csv", "parquet"])
def test_a_caption_of_a_megabyte_is_refused_by_its_row(tmp_path, suffix):
    rows = [{"image": "a.jpg", "caption": "a"}, {"image": "b.jpg", "caption": MARKS}]
    path = tmp_path / f"train.{suffix}"
    if suffix == "parquet":
        pa.parquet.write_table(pa.Table.from_pylist(rows), path)
    elif suffix == "csv":
        path.write_text("image,caption\na.jpg,a\nb.jpg," + "word " * 20_000 + "\n")  # csv's own limit is 131,072
    else:
        path.write_text(json.dumps(rows) if suffix == "json" else "\n".join(map(json.dumps, rows)))
    start = time.monotonic()
    with pytest.raises(ValueError, match=r"(row|line) \d: .* characters, and at most 10,000 are read.*max_characters"):
        read_annotations(path)
    assert time.monotonic() - start < 10


def test_the_limit_is_a_setting(tmp_path):
    path = tmp_path / "train.json"
    path.write_text(json.dumps([{"image": "a.jpg", "caption": "abcdef"}]))
    assert read_annotations(path, None, 6)["caption"].to_pylist() == [["abcdef"]]
    with pytest.raises(ValueError, match="'abcdef'… has 6 characters, and at most 5 are read"):
        read_annotations(path, None, 5)
    assert len(readable("a" * MAX_CHARACTERS)) == MAX_CHARACTERS


def test_questions_rows_of_csv_and_shards_have_the_limit_too(tmp_path):
    long = "word " * 3000
    (tmp_path / "q.json").write_text(
        json.dumps([{"question_id": 1, "image": "a.jpg", "question": long, "answer": "a"}])
    )
    with pytest.raises(ValueError, match="row 1: .* characters"):
        read_questions(tmp_path / "q.json")
    (tmp_path / "x.csv").write_text(f"filepath\ttitle\na.jpg\ta\nb.jpg\t{long}\n")
    with pytest.raises(ValueError, match=r"row 2: 'title' has 15,000 characters"):
        read_pairs(tmp_path / "x.csv", "filepath", "title", "\t")
    image = io.BytesIO()
    Image.new("RGB", (8, 8)).save(image, "png")
    with pytest.raises(ValueError, match="characters"):
        decoded({"__url__": "a.tar", "__key__": "0", "txt": long.encode(), "png": image.getvalue()})


@pytest.mark.parametrize("text", ["[" * 100_000 + '"]', '["' + "[" * 100_000 + '"]', "['" + "(" * 100_000 + "']"])
def test_a_list_that_nests_deeply_is_a_caption_or_an_error(text):
    try:
        assert written_list(text, "caption") in (None, [text[2:-2]])
    except ValueError as error:
        assert "looks like a list" in str(error)


@pytest.mark.parametrize("suffix", ["json", "jsonl"])
@pytest.mark.parametrize("deep", ["[" * 100_000, '{"a":' * 100_000, "9" * 5000])
def test_json_that_nests_deeply_or_has_endless_numbers_is_named(tmp_path, suffix, deep):
    path = tmp_path / f"train.{suffix}"
    opening = '[{"image": "a", "caption": ' if suffix == "json" else '{"image": "a", "caption": '
    path.write_text(opening + deep + "}]")
    with pytest.raises(ValueError, match=rf"train\.{suffix}"):
        read_annotations(path)


@pytest.mark.parametrize("name", ["x" * 300 + ".json", "a.json/b.json"])
def test_an_annotation_that_cannot_be_reached_is_named(tmp_path, name):
    (tmp_path / "a.json").write_text("[]")
    with pytest.raises(ValueError, match=r"\.json"):
        read_annotations(tmp_path / name)


def test_an_image_of_many_captions_and_a_caption_of_many_images_are_gathered_in_linear_time():
    n = 50_000
    many = {"image": ["a.jpg"] * n, "caption": [[f"caption {number}"] for number in range(n)], "image_id": [None] * n}
    shared = {"image": [f"{k}.jpg" for k in range(n)], "caption": [["a dog"]] * n, "image_id": [None] * n}
    start = time.monotonic()
    assert RecordTable.from_rows(pa.table(many, schema=ROWS), "x").n_records == 1
    assert len(set(RecordTable.from_rows(pa.table(shared, schema=ROWS), "x").text_id.tolist())) == 1
    assert time.monotonic() - start < 20


def test_a_page_shows_ten_captions_of_an_image_and_says_how_many_more():
    rows = {"image": ["a.jpg"] * 2000, "caption": [[f"caption {n}"] for n in range(2000)], "image_id": [None] * 2000}
    table = RecordTable.from_rows(pa.table(rows, schema=ROWS), "x")
    row = gallery_row(table, 0, 5, p=0.9)
    assert isinstance(row, GalleryRow)
    assert (len(row.own_captions), row.own_more) == (10, 1990)
    few = RecordTable.from_rows(pa.table(rows, schema=ROWS).slice(0, 3), "x")
    assert gallery_row(few, 0, 0, p=0.9).own_more == 0
