"""A cross-encoder against its own outputs, a pair of captions at a time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
from transformers import AutoTokenizer, BertForSequenceClassification

from lavis_mafa.core.settings import MafaSettings
from lavis_mafa.data.dataset import RecordImages
from lavis_mafa.data.records import RecordTable
from lavis_mafa.scorers import cross_encoder
from lavis_mafa.scorers.registry import ScorerRequest, build_scorer
from tests.tiny_text import save_tokenizer, tiny_bert

OWN = {"a.jpg": ["a dog runs", "the dog on grass"], "b.jpg": ["a cat sits"]}
ASKED = ["the red car sleeps on the grass", "a cat sits", "a dog runs"]
NLI = {0: "contradiction", 1: "entailment", 2: "neutral"}


def save(folder: Path, labels: int, names: dict[int, str] | None = None) -> BertForSequenceClassification:
    save_tokenizer(folder)
    torch.manual_seed(1)
    config = tiny_bert(num_labels=labels)
    if names:
        config.id2label = names
    model = BertForSequenceClassification(config).eval()
    model.save_pretrained(folder)
    return model


@pytest.fixture
def table() -> RecordTable:
    return RecordTable.from_rows(pa.table({"image": [*OWN], "caption": [*OWN.values()]}), dataset="test")


def build(folder: Path, table: RecordTable, **section: Any) -> Any:
    section = {"arch": "cross_encoder", "encoder": str(folder), **section}
    data = RecordImages(table, None, None)  # type: ignore[arg-type]
    return build_scorer(ScorerRequest(section, "run.con_d", torch.device("cpu"), MafaSettings(), data))


@pytest.mark.parametrize(("labels", "names"), [(1, None), (2, None), (3, NLI)])
def test_scores_are_the_networks_own_of_the_nearest_caption(
    tmp_path: Path, table: RecordTable, labels: int, names: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cross_encoder, "BATCH", 2)
    model, tokenizer = save(tmp_path, labels, names), AutoTokenizer.from_pretrained(tmp_path)

    @torch.no_grad()
    def by_hand(own: str, candidate: str) -> float:
        logits = model(**tokenizer(own, candidate, return_tensors="pt")).logits[0]
        return float(logits.sigmoid()[0] if labels == 1 else logits.softmax(0)[1])

    judge = build(tmp_path, table)
    batch: Any = {"image_id": torch.from_numpy(table.image_id), "caption": ASKED}
    found = judge.score(batch, torch.tensor([0, 0, 0, 1, 1]), torch.tensor([0, 1, 2, 0, 1])).tolist()
    first, second = OWN["a.jpg"]
    assert found == pytest.approx(
        [
            max(by_hand(first, ASKED[0]), by_hand(second, ASKED[0])),
            max(by_hand(first, ASKED[1]), by_hand(second, ASKED[1])),
            by_hand(second, ASKED[2]),  # its own caption is compared with the other
            by_hand("a cat sits", ASKED[0]),
            1.0,  # nothing to compare with
        ],
        abs=1e-5,
    )
    assert judge.report() == {"pairs_of_captions_read": 6, "pairs_of_captions_cut": 0}


def test_what_is_cut_is_counted_and_what_changes_a_score_is_named(tmp_path: Path, table: RecordTable) -> None:
    save(tmp_path, 1)
    judge = build(tmp_path, table, max_length=8)
    batch: Any = {"image_id": torch.from_numpy(table.image_id), "caption": ASKED}
    judge.score(batch, torch.tensor([1]), torch.tensor([0]))
    assert judge.report() == {"pairs_of_captions_read": 1, "pairs_of_captions_cut": 1}
    one = build(tmp_path, table)
    other = build(tmp_path, table.first_captions())
    assert one.weights_fingerprint == other.weights_fingerprint != judge.weights_fingerprint
    assert len({one.fingerprint, other.fingerprint, judge.fingerprint}) == 3


def test_what_cannot_judge_is_refused(tmp_path: Path, table: RecordTable, encoder_folder: Path) -> None:
    save(tmp_path / "many", 3)
    with pytest.raises(ValueError, match=r"of the outputs label_0, label_1, label_2 none is called entailment"):
        build(tmp_path / "many", table)
    with pytest.raises(ValueError, match=r"run.con_d.encoder: .* lacks classifier.bias"):
        build(encoder_folder, table)  # a sentence encoder has no head
    with pytest.raises(ValueError, match="arch cross_encoder needs encoder"):
        build(Path(""), table, encoder=None)
