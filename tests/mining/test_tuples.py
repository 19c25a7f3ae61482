"""Tuples of cleared hard negatives: by hand, as a property, and from the file that mining writes."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lavis_mafa.data.identity import text_id
from lavis_mafa.mining.corpus import Corpus
from lavis_mafa.mining.engine import Mined
from lavis_mafa.mining.results import write_connections
from lavis_mafa.mining.tuples import hard_negative_tuples

ANNOTATED = pd.DataFrame({"image": [0, 0, 1, 2], "caption": ["a dog", "a dog runs", "A  Dog", "a car"]})
ROWS = [  # of conftest.py
    ("a.jpg", ["a dog runs", "an animal"]),
    ("b.jpg", ["a cat sits", "An  Animal"]),
    ("c.jpg", ["a red car"]),
    ("d.jpg", ["a dog runs"]),
]
COLUMNS = ["image", "caption", "similarity", "p", "verdict"]
FOUND = pd.DataFrame(
    [
        (2, "a dog", 0.3, 0.1, "negative"),
        (3, "a dog", 0.8, 0.2, "negative"),
        (4, "a dog", 0.9, 0.9, "connection"),
        (5, "a dog", 0.7, 0.6, "ambiguous"),
        (1, "a dog", 0.9, 0.1, "negative"),  # annotated, in another spelling
        (0, "a car", 0.5, 0.0, "negative"),
        (0, "a bus", 0.6, 0.0, "negative"),
    ],
    columns=COLUMNS,
)


def test_a_caption_gets_the_most_similar_cleared_images() -> None:
    tuples = hard_negative_tuples(FOUND, ANNOTATED, negatives=2)
    assert list(tuples) == ["anchor", "positive", "negative_1", "negative_2"]
    assert tuples.values.tolist() == [["a dog", 0, 3, 2], ["A  Dog", 1, 3, 2]], "a car has one negative only"
    assert (tuples.dtypes.iloc[1:] == "int64").all()
    assert hard_negative_tuples(FOUND, ANNOTATED).values.tolist()[-1] == ["a car", 2, 0]


def test_an_image_gets_captions() -> None:
    tuples = hard_negative_tuples(FOUND, ANNOTATED, negatives=2, anchor="image")
    assert tuples.values.tolist() == [[0, "a dog", "a bus", "a car"], [0, "a dog runs", "a bus", "a car"]]


def test_none_is_an_empty_table_of_the_same_columns() -> None:
    for found in (FOUND, FOUND.iloc[:0]):
        tuples = hard_negative_tuples(found, ANNOTATED, negatives=3)
        assert len(tuples) == 0 and list(tuples) == ["anchor", "positive", *(f"negative_{n}" for n in (1, 2, 3))]


def test_pairs_without_a_similarity_come_last() -> None:
    found = FOUND.assign(similarity=FOUND["similarity"].where(FOUND["image"] != 3))
    assert hard_negative_tuples(found, ANNOTATED).values.tolist()[0] == ["a dog", 0, 2]


PAIRS = st.tuples(st.integers(0, 4), st.sampled_from("abcde"))
CANDIDATES = st.dictionaries(
    PAIRS, st.tuples(st.floats(0, 1), st.sampled_from(["negative", "ambiguous", "connection"]))
)


@settings(deadline=None, max_examples=50)
@given(CANDIDATES, st.sets(PAIRS), st.integers(1, 3), st.sampled_from(["caption", "image"]))
def test_only_cleared_pairs_are_negatives(
    judged: dict[tuple[int, str], tuple[float, str]], known: set[tuple[int, str]], negatives: int, anchor: str
) -> None:
    known |= {(image, "own") for image in range(5)}
    found = pd.DataFrame([(*pair, s, 0.5, verdict) for pair, (s, verdict) in judged.items()], columns=COLUMNS)
    annotated = pd.DataFrame(sorted(known), columns=["image", "caption"])
    tuples = hard_negative_tuples(found, annotated, negatives, anchor)
    clear = {pair for pair, (_, verdict) in judged.items() if verdict == "negative"} - known
    expected = 0
    for pair in known:
        side = 1 if anchor == "caption" else 0
        expected += sum(other[side] == pair[side] for other in clear) >= negatives
    assert len(tuples) == expected
    for row in tuples.itertuples(index=False):
        at = [(other, row.anchor) if anchor == "caption" else (row.anchor, other) for other in row[1:]]
        assert at[0] in known and clear.issuperset(at[1:]) and len(set(at)) == negatives + 1
        ranks = [judged[pair][0] for pair in at[1:]]
        assert ranks == sorted(ranks, reverse=True)


def test_the_file_that_mining_writes_is_read(corpus: Corpus, mined: Mined, tmp_path: Path) -> None:
    write_connections(tmp_path / "connections.parquet", corpus, mined, "x")
    found = pd.read_parquet(tmp_path / "connections.parquet")
    annotated = pd.DataFrame(ROWS, columns=["image", "caption"]).explode("caption")
    tuples = hard_negative_tuples(found, annotated)
    cleared = found[found["verdict"] == "negative"]
    negative = {(text_id(row.caption), row.image) for row in cleared.itertuples()}
    assert len(tuples) >= 2
    for anchor, positive, image in tuples.itertuples(index=False):
        assert image != positive and (text_id(anchor), image) in negative


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"found": FOUND.drop(columns="verdict")}, "found lacks the columns verdict"),
        ({"annotated": ANNOTATED[["image"]]}, "annotated lacks the columns caption"),
        ({"found": FOUND.assign(verdict="maybe")}, "verdict is 'maybe'"),
        ({"annotated": ANNOTATED.assign(image="a.jpg")}, "name images the same way"),
        ({"anchor": "text"}, "allowed: caption, image"),
        ({"negatives": 0}, "at least 1"),
    ],
)
def test_what_makes_no_tuples_is_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        hard_negative_tuples(**{"found": FOUND, "annotated": ANNOTATED, **change})  # type: ignore[arg-type]
