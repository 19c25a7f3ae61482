"""The captions' judge on vectors placed by hand, and what it knows of an image."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from lavis_mafa.core.scorer import Retriever, retriever_of, view_of
from lavis_mafa.core.settings import MafaSettings
from lavis_mafa.data.dataset import RecordImages
from lavis_mafa.data.own_captions import OwnCaptions
from lavis_mafa.data.records import RecordTable
from lavis_mafa.scorers import captions
from lavis_mafa.scorers.captions import CaptionScorer
from lavis_mafa.scorers.registry import ScorerRequest, build_scorer, missing_view

CPU = torch.device("cpu")
ROWS = [("a.jpg", ["a dog runs", "a dog"]), ("b.jpg", ["a cat sits"]), ("a.jpg", ["the dog sleeps"])]
ANGLES = {
    "a dog runs": 0,
    "A dog  runs": 0,
    "a dog": 20,
    "the dog sleeps": 50,
    "a cat sits": 80,
    "a car": 200,
    "dog": 20,
}


class Angles:
    """Texts as directions in the plane, given in degrees."""

    fingerprint = "angles"
    read, cut = 6, 1

    def __call__(self, texts: Sequence[str]) -> torch.Tensor:
        angle = torch.deg2rad(torch.tensor([float(ANGLES[text]) for text in texts]))
        return torch.stack([angle.cos(), angle.sin()], dim=1)


@pytest.fixture
def table() -> RecordTable:
    columns = {"image": [image for image, _ in ROWS], "caption": [own for _, own in ROWS]}
    return RecordTable.from_rows(pa.table(columns), dataset="test")


@pytest.fixture
def judge(table: RecordTable) -> CaptionScorer:
    return CaptionScorer(Angles(), OwnCaptions.of_table(table))  # type: ignore[arg-type]


def cosine(degrees: float) -> Any:
    return pytest.approx(float(np.cos(np.deg2rad(degrees))), abs=1e-6)


def ask(judge: CaptionScorer, image_ids: Sequence[int], texts: list[str], image_K: list[int], text_K: list[int]) -> Any:
    batch: Any = {"image_id": torch.tensor(image_ids), "caption": texts}
    return judge.score(batch, torch.tensor(image_K), torch.tensor(text_K)).tolist()


def test_an_image_has_the_captions_of_all_its_records(table: RecordTable) -> None:
    rows = pa.table({"image": ["a.jpg"] * 2 + ["b.jpg"], "caption": [["x"], ["y"], ["z"]]})
    apart = RecordTable.from_rows(rows, dataset="test", one_caption_a_record=True)
    own = OwnCaptions.of_table(apart)
    assert [own[image] for image in apart.image_id.tolist()] == [["x", "y"], ["x", "y"], ["z"]]
    assert own.most == 2 and OwnCaptions.of_table(table).most == 3
    with pytest.raises(KeyError, match="image_id 7 is not in the data set"):
        own[7]


def test_the_score_is_the_largest_cosine_to_an_own_caption(judge: CaptionScorer, table: RecordTable) -> None:
    found = ask(judge, table.image_id.tolist(), ["a cat sits", "a car", "a dog"], [0, 0, 1, 1], [0, 1, 2, 1])
    assert found == [cosine(30), 0.0, cosine(60), 0.0]  # to 50 degrees; 150 is negative; 80 to 20; 120


def test_an_annotated_pair_is_compared_with_the_other_captions(judge: CaptionScorer, table: RecordTable) -> None:
    found = ask(judge, table.image_id.tolist(), ["A dog  runs", "a cat sits"], [0, 1], [0, 1])
    assert found == [cosine(20), cosine(0)]  # the same text itself does not count, but where it is the only one


def test_captions_that_a_model_reads_alike_are_one_text(table: RecordTable) -> None:
    read = table.read_through(lambda caption: caption.replace("a ", ""))
    judge = CaptionScorer(Angles(), OwnCaptions.of_table(read))  # type: ignore[arg-type]
    assert ask(judge, table.image_id.tolist(), ["dog"], [0], [0]) == [cosine(20)], "not 0, of a dog"


def test_where_data_stream_by_an_image_is_known_by_the_caption_at_its_place() -> None:
    judge = CaptionScorer(Angles(), None)  # type: ignore[arg-type]
    assert ask(judge, [5, 6], ["a dog", "a cat sits"], [0, 1, 0], [1, 0, 0]) == [cosine(60), cosine(60), cosine(0)]


def test_it_looks_at_no_image_and_finds_candidates(
    judge: CaptionScorer, table: RecordTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert view_of(judge) is None and isinstance(judge, Retriever) and retriever_of(judge) is judge
    vectors = judge.embed_images({"image_id": torch.from_numpy(table.image_id)})
    expected = Angles()([*ROWS[0][1], *ROWS[2][1], *ROWS[1][1] * 3]).reshape(2, 3, 2)
    assert torch.equal(vectors, expected)
    monkeypatch.setattr(captions, "RETRIEVED_BY", 2)
    assert torch.equal(judge.embed_images({"image_id": torch.from_numpy(table.image_id)}), expected[:, :2])
    assert torch.equal(judge.embed_texts(["a car"]), Angles()(["a car"]))
    assert judge.report() == {"captions_read": 6, "captions_cut": 1}


def test_the_fingerprint_knows_which_captions_are_known(table: RecordTable) -> None:
    names = {
        CaptionScorer(Angles(), own).fingerprint  # type: ignore[arg-type]
        for own in (None, OwnCaptions.of_table(table), OwnCaptions.of_table(table.first_captions()))
    }
    assert len(names) == 3


def test_first_captions_are_the_same_records_with_less_to_read(table: RecordTable) -> None:
    first = table.first_captions()
    assert (first.n_records, first.n_captions) == (2, 2)
    assert first.captions.to_pylist() == ["a dog runs", "a cat sits"]
    assert [list(first.caption_rows(record)) for record in range(2)] == [[0], [1]]
    np.testing.assert_array_equal(first.image_id, table.image_id)
    np.testing.assert_array_equal(first.text_id, table.text_id[[0, 3]])


def request(table: RecordTable, **section: Any) -> ScorerRequest:
    data = RecordImages(table, None, None)  # type: ignore[arg-type]
    return ScorerRequest({"arch": "captions", **section}, "run.con_d", CPU, MafaSettings(), data)


def test_the_registry_builds_it_from_a_folder(encoder_folder: Path, table: RecordTable) -> None:
    judge = build_scorer(request(table, encoder=str(encoder_folder)))
    (p,) = ask(judge, table.image_id.tolist(), ["a cat sits"], [0], [0])  # type: ignore[arg-type]
    own = judge.encode(["a dog runs", "a dog", "the dog sleeps"])  # type: ignore[attr-defined]
    (candidate,) = judge.encode(["a cat sits"])  # type: ignore[attr-defined]
    assert p == pytest.approx(float((own @ candidate).max().clamp(0, 1)), abs=1e-6)
    data = request(table).data
    assert data is not None and missing_view(judge, data) is None, "training shows it no image"
    with pytest.raises(ValueError, match=r"run.con_d: arch captions needs encoder, a sentence encoder's folder"):
        build_scorer(request(table))
