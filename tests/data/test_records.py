import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lavis_mafa.data.identity import image_id, text_id
from lavis_mafa.data.records import RecordTable


def table_of(images, captions, ids=None, **options):
    rows = {"image": images, "caption": captions}
    if ids is not None:
        rows["image_id"] = ids
    return RecordTable.from_rows(pa.table(rows), "toy", **options)


def records(table):
    return [[table.caption(row) for row in table.caption_rows(record)] for record in range(table.n_records)]


def test_rows_of_one_image_are_gathered_in_order_of_appearance():
    table = table_of(["b", "a", "./b", "c"], [["b1"], ["a1", "a2"], ["b1", "B1", "b2"], ["a1"]], ["9", "1", "9", None])
    assert table.images.to_pylist() == ["b", "a", "c"]
    assert records(table) == [["b1", "B1", "b2"], ["a1", "a2"], ["a1"]]  # an exact repeat goes, another spelling stays
    assert table.offsets.tolist() == [0, 3, 5, 6]
    assert table.record_of_caption.tolist() == [0, 0, 0, 1, 1, 2]
    assert (table.n_records, table.n_captions) == (3, 6)
    assert table.annotated_id.to_pylist() == ["9", "1", None]
    assert table.image_id.tolist() == [image_id("toy", 9), image_id("toy", 1), image_id("toy", "c")]
    assert table.text_id.tolist() == [text_id(caption) for caption in ["b1", "b1", "b2", "a1", "a2", "a1"]]
    assert table.image_id.dtype == table.text_id.dtype == table.offsets.dtype == np.int64


def test_without_ids_the_path_gathers():
    assert records(table_of(["a", "b", "./a"], [["1"], ["2"], ["3"]])) == [["1", "3"], ["2"]]


def test_rows_may_stay_rows():
    images, captions = ["b", "a", "b"], [["b1"], ["a1", "a2"], ["b1", "b2"]]
    table = table_of(images, captions, one_caption_a_record=True)
    assert records(table) == [["b1"], ["a1"], ["a2"], ["b2"]]
    assert table.images.to_pylist() == ["b", "a", "a", "b"]
    assert table.image_id.tolist() == [image_id("toy", image) for image in "baab"]


def test_one_id_with_two_images_is_an_error():
    with pytest.raises(ValueError, match="image id '7' belongs to two images, 'a' and 'c'"):
        table_of(["a", "b", "c"], [["1"], ["2"], ["3"]], ["7", "8", "7"])


def test_no_rows_and_no_captions_are_errors():
    with pytest.raises(ValueError, match="no rows"):
        RecordTable.from_rows(pa.table({"image": pa.array([], pa.string()), "caption": []}), "toy")
    with pytest.raises(ValueError, match="image 'b' has no caption"):
        table_of(["a", "b"], [["1"], []])


def test_collisions_are_checked_at_load(monkeypatch):
    monkeypatch.setattr("lavis_mafa.data.records.text_id", lambda caption: len(caption))
    assert table_of(["a", "b"], [["one"], ["ONE", "four"]]).text_id.tolist() == [3, 3, 4]
    with pytest.raises(ValueError, match="'one' and 'two' share the id 3"):
        table_of(["a", "b"], [["one"], ["two"]])


def test_fingerprint_follows_the_content():
    one = table_of(["a", "b"], [["1"], ["2", "3"]])
    assert one.fingerprint == table_of(["a", "b", "b"], [["1"], ["2"], ["3"]]).fingerprint
    others = [
        table_of(["b", "a"], [["2", "3"], ["1"]]),
        table_of(["a", "b"], [["1", "2"], ["3"]]),
        table_of(["a", "b"], [["1"], ["23", ""]]),
        table_of(["a", "b"], [["1"], ["2", "4"]]),
        table_of(["a", "c"], [["1"], ["2", "3"]]),
        table_of(["a", "b"], [["1"], ["2", "3"]], ["x", "y"]),
    ]
    assert len({table.fingerprint for table in [one, *others]}) == 7


def test_chunked_and_sliced_rows_make_no_difference():
    rows = pa.table({"image": list("xabca"), "caption": [["0"], ["1"], ["2"], ["3", "4"], ["5"]]})
    pieces = pa.concat_tables([rows.slice(1, 2), rows.slice(3)])
    assert records(RecordTable.from_rows(pieces, "toy")) == [["1", "5"], ["2"], ["3", "4"]]


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(st.sampled_from("abc"), st.lists(st.text("xyé犬", max_size=2), min_size=1)), min_size=1))
def test_gathering_equals_a_dictionary(rows):
    wanted: dict[str, dict[str, None]] = {}
    for image, captions in rows:
        wanted.setdefault(image, {}).update(dict.fromkeys(captions))
    table = table_of([image for image, _ in rows], [captions for _, captions in rows])
    assert table.images.to_pylist() == list(wanted)
    assert records(table) == [list(captions) for captions in wanted.values()]
    apart = table_of([image for image, _ in rows], [captions for _, captions in rows], one_caption_a_record=True)
    pairs = dict.fromkeys((image, caption) for image, captions in rows for caption in captions)
    assert list(zip(apart.images.to_pylist(), apart.captions.to_pylist(), strict=True)) == list(pairs)
