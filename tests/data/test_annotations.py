import json

import pandas as pd
import pyarrow as pa
import pytest

from lavis_mafa.data.annotations import CHUNK, ROWS, read_annotations

CAPTIONS = ["犬が走る", 'a "red", dog\tand a tab', "כלב רץ 🐕\nin two lines"]
WANTED = [{"image": f"{n}.jpg", "caption": [caption], "image_id": str(n)} for n, caption in enumerate(CAPTIONS)]


def write(path, rows):
    if path.suffix == ".json":
        path.write_text(json.dumps(rows, ensure_ascii=False, indent=1), encoding="utf-8")
    elif path.suffix == ".jsonl":
        path.write_text("\n\n".join(map(json.dumps, rows)), encoding="utf-8-sig")
    elif path.suffix == ".parquet":
        pd.DataFrame(rows).to_parquet(path)
    else:
        pd.DataFrame(rows).to_csv(path, index=False, sep={".csv": ",", ".tsv": "\t"}[path.suffix])
    return path


@pytest.mark.parametrize("suffix", [".json", ".jsonl", ".csv", ".tsv", ".parquet"])
def test_every_format_gives_the_same_rows(tmp_path, suffix):
    rows = [{"image": f"{n}.jpg", "caption": caption, "image_id": n} for n, caption in enumerate(CAPTIONS)]
    table = read_annotations(write(tmp_path / f"rows{suffix}", rows))
    assert table.schema == ROWS
    assert table.to_pylist() == WANTED


@pytest.mark.parametrize("suffix", [".json", ".jsonl", ".parquet"])
def test_lists_of_captions_and_no_id(tmp_path, suffix):
    rows = [{"file_name": "a.jpg", "text": CAPTIONS}, {"file_name": "b.jpg", "text": CAPTIONS[:1]}]
    table = read_annotations(write(tmp_path / f"rows{suffix}", rows))
    assert table["caption"].to_pylist() == [CAPTIONS, CAPTIONS[:1]]
    assert table["image"].to_pylist() == ["a.jpg", "b.jpg"]
    assert table["image_id"].null_count == 2


@pytest.mark.parametrize("suffix", [".json", ".jsonl", ".csv", ".tsv", ".parquet"])
@pytest.mark.parametrize("written", [json.dumps, str, lambda captions: json.dumps(captions, indent=1)])
def test_a_list_of_captions_may_be_written_as_text(tmp_path, suffix, written):
    captions = [*CAPTIONS, 'it\'s "one", two']
    rows = [{"filename": "a.jpg", "raw": written(captions)}, {"filename": "b.jpg", "raw": written(["alone"])}]
    table = read_annotations(write(tmp_path / f"rows{suffix}", rows), image_key="filename", caption_key="raw")
    assert table["caption"].to_pylist() == [captions, ["alone"]]


def test_brackets_alone_are_no_list(tmp_path):
    captions = ["[music]", "[1, 2]", '["a" sign] on a wall', "'a' [b]", "a list ['x', 'y']"]
    rows = [{"image": str(n), "caption": caption} for n, caption in enumerate(captions)]
    assert read_annotations(write(tmp_path / "a.csv", rows))["caption"].to_pylist() == [[c] for c in captions]


@pytest.mark.parametrize("text", ["['a' 'b']", '["a", null, "b"]', "['a',\n 'b\"]", '["a" "b"]', '["a", " "]', "[]"])
def test_a_text_that_looks_like_a_list_and_is_none_is_refused(tmp_path, text):
    file = write(tmp_path / "a.csv", [{"image": "a", "caption": "x"}, {"image": "b", "caption": text}])
    with pytest.raises(ValueError, match="line 3: 'caption' (looks like a list|must be a non-empty|is an empty)"):
        read_annotations(file)


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".json"])
def test_an_id_may_be_missing_in_some_rows(tmp_path, suffix):
    rows = [{"image": "a", "caption": "x", "image_id": None}, {"image": "b", "caption": "y", "image_id": "0b"}]
    assert read_annotations(write(tmp_path / f"rows{suffix}", rows))["image_id"].to_pylist() == [None, "0b"]


def test_columns_can_be_named_and_files_follow_each_other(tmp_path):
    rows = [{"picture": "a", "says": "x", "id": 3, "image": "wrong", "caption": "wrong"}]
    files = [write(tmp_path / "one.json", rows), write(tmp_path / "two.csv", rows)]
    table = read_annotations(files, image_key="picture", caption_key="says", id_key="id")
    assert table.to_pylist() == [{"image": "a", "caption": ["x"], "image_id": "3"}] * 2


def test_a_plain_id_column_is_not_taken_for_an_image_id(tmp_path):
    file = write(tmp_path / "coco.json", [{"image": "a", "caption": "x", "id": 1}])
    assert read_annotations(file)["image_id"].to_pylist() == [None]


def test_more_rows_than_a_chunk_keep_their_order(tmp_path):
    file = tmp_path / "long.csv"
    file.write_text("image,caption\n" + "".join(f"{n},c{n}\n" for n in range(CHUNK + 5)))
    assert read_annotations(file)["image"].to_pylist() == [str(n) for n in range(CHUNK + 5)]


def test_a_caption_may_be_very_long(tmp_path):
    file = write(tmp_path / "long.csv", [{"image": "a", "caption": "long " * 2000}])
    assert len(read_annotations(file)["caption"][0][0].as_py()) == 10_000


BROKEN = {
    "suffix.txt": ("x", r"unknown suffix '\.txt'; supported are \.json, \.jsonl"),
    "empty.json": ("[ ]", "has no rows"),
    "empty.csv": ("image,caption\n", "has no rows"),
    "nothing.jsonl": ("", "has no rows"),
    "object.json": (
        '{"info": {}, "questions": [{"id": 1}]}',
        "line 1: no image column.*'questions' holds a list of objects, and the layouts that are read are a list",
    ),
    "comma.json": ('[{"image": "a", "caption": "x"}\n\n {"image": "b"}]', "line 3, column 2: expected , or ]"),
    "torn.json": ('[{"image": "a", "caption": "x"},\n {"image": "b", "cap', "broken JSON at line 2"),
    "open.json": ('[{"image": "a", "caption": "x"}\n', "broken JSON at line 2"),
    "trailing.json": ('[{"image": "a", "caption": "x"},\n]', "broken JSON at line 2"),
    "twice.json": ('[{"image": "a", "caption": "x"}]\n[]', "line 2.*text after the list"),
    "torn.jsonl": ('{"image": "a", "caption": "x"}\n{"image"', "broken JSON at line 2"),
    "strings.json": ('["a"]', "row 1: a row must be an object"),
    "typo.json": ('[{"image": "a", "captoin": "x"}]', "row 1: no caption column.*closest is 'captoin'.*caption_key"),
    "headless.csv": ("a.jpg,a dog\nb.jpg,a cat\n", "no image column.*among 'a.jpg', 'a dog'"),
    "blank.csv": ('image,caption\na,"x\ny"\nb,  \n', "line 4: 'caption' must be a non-empty string"),
    "short.csv": ("image,caption\na\n", "line 2: 'caption' must be a non-empty string"),
    "long.csv": ("image,caption\na,x\nb,y,z\n", "line 3: more fields than the header"),
    "quote.tsv": ('image\tcaption\na\tx\nb\t"open\n', "line 3: .*quoted"),
    "list.json": (
        '[{"image": "a", "caption": ["x"]}, {"image": "b", "caption": []}]',
        "row 2: 'caption' is an empty list",
    ),
    "inner.json": ('[{"image": "a", "caption": ["x", " "]}]', "row 1: 'caption' must be a non-empty string"),
    "later.json": ('[{"image": "a", "caption": "x"}, {"image": "b"}]', "row 2: 'caption' must be a non-empty string"),
    "number.json": ('[{"image": 3, "caption": "x"}]', "row 1: 'image' must be a non-empty string"),
    "id.json": ('[{"image": "a", "caption": "x", "image_id": 1.5}]', "row 1: an image id must be a whole number"),
    "half.json": ('[{"image": "a", "caption": "\\ud83d x"}]', "row 1: .*half a character"),
    "pointer.json": ("version https://git-lfs.github.com/spec/v1\n", "is a pointer of git-lfs"),
    "page.csv": ("<!DOCTYPE html>\n<html>quota</html>", "is a web page"),
    "pointer.parquet": ("version https://git-lfs.github.com/spec/v1\n", "is a pointer of git-lfs"),
    "torn.parquet": ("PAR1 and no more", "not a readable Parquet file"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_errors_name_file_and_row(tmp_path, name):
    text, message = BROKEN[name]
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=message) as error:
        read_annotations(tmp_path / name)
    assert name in str(error.value)


def test_a_missing_file_another_encoding_and_an_unknown_key(tmp_path):
    with pytest.raises(ValueError, match=r"gone\.json: no such annotation file"):
        read_annotations(tmp_path / "gone.json")
    (tmp_path / "latin.csv").write_bytes("image,caption\na,café\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"latin\.csv is not UTF-8"):
        read_annotations(tmp_path / "latin.csv")
    file = write(tmp_path / "a.json", [{"image": "a", "caption": "x", "img_id": 1}])
    with pytest.raises(ValueError, match="no id column: tried 'image_id'.*closest is 'img_id'"):
        read_annotations(file, id_key="image_id")
    with pytest.raises(ValueError, match="no annotation file given"):
        read_annotations([])


def test_null_captions_in_parquet(tmp_path):
    pa.parquet.write_table(pa.table({"image": ["a", "b"], "caption": ["x", None]}), tmp_path / "null.parquet")
    with pytest.raises(ValueError, match=r"null\.parquet, row 2: 'caption' must be a non-empty string"):
        read_annotations(tmp_path / "null.parquet")
