"""Sentence vectors against those worked out one text at a time, and encoders that are refused."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoTokenizer

from lavis_mafa.encoders import text_encoder
from lavis_mafa.encoders.text_encoder import TextEncoder, load_text_encoder

CPU = torch.device("cpu")
TEXTS = ["a dog runs on the grass", "the cat sits", "red", "the red car on the blue grass", "a dog sleeps"]


def load(folder: Path, **section: Any) -> TextEncoder:
    return load_text_encoder(str(folder), "run.con_d.encoder", CPU, section)


def by_hand(folder: Path, text: str, pooling: str = "mean", max_length: int = 16) -> torch.Tensor:
    """One text alone, so that nothing is padded."""
    tokens = AutoTokenizer.from_pretrained(folder)(text, truncation=True, max_length=max_length, return_tensors="pt")
    with torch.no_grad():
        states_TD = AutoModel.from_pretrained(folder).eval()(**tokens).last_hidden_state[0]
    return F.normalize({"mean": states_TD.mean(0), "cls": states_TD[0], "last": states_TD[-1]}[pooling], dim=0)


@pytest.mark.parametrize("pooling", ["mean", "cls", "last"])
@pytest.mark.parametrize("side", ["right", "left"])
def test_vectors_are_those_of_each_text_alone(encoder_folder: Path, pooling: str, side: str) -> None:
    encode = load(encoder_folder, pooling=pooling)
    encode.tokenizer.padding_side = side
    if side == "left":  # BERT counts positions from the first token, padding or not: only the pooled place is looked at
        states, mask = torch.arange(24.0).reshape(2, 4, 3), torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1]])
        expected = {"mean": states[0, 2:].mean(0), "cls": states[0, 2], "last": states[0, 3]}[pooling]
        torch.testing.assert_close(text_encoder.POOLING[encode.pooling](states, mask)[0], expected)
        return
    expected = torch.stack([by_hand(encoder_folder, text, pooling) for text in TEXTS])
    torch.testing.assert_close(encode(TEXTS), expected, atol=2e-3, rtol=0)  # kept in half precision
    torch.testing.assert_close(encode(TEXTS).norm(dim=1), torch.ones(5))


def test_a_text_is_encoded_once(encoder_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_encoder, "BATCH", 2)
    encode, seen = load(encoder_folder), []
    encoded = encode.encoded
    monkeypatch.setattr(encode, "encoded", lambda texts: seen.extend(texts) or encoded(texts))
    first = encode([TEXTS[1], TEXTS[0], TEXTS[1]])
    again = encode(TEXTS)
    assert sorted(seen) == sorted(TEXTS)
    assert torch.equal(first, again[[1, 0, 1]])
    monkeypatch.setattr(text_encoder, "KEPT_TEXTS", 3)  # what is full begins anew
    assert torch.equal(encode(TEXTS[:2]), again[:2]) and len(encode._row) == 2


def test_captions_that_are_cut_are_counted_and_reported(encoder_folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    encode = load(encoder_folder, max_length=5)
    with caplog.at_level(logging.WARNING):
        found = encode(TEXTS)
    assert (encode.read, encode.cut) == (5, 2)  # [CLS], [SEP] and three words fit
    assert "more than 5 tokens are cut" in caplog.text
    torch.testing.assert_close(found[0], by_hand(encoder_folder, TEXTS[0], max_length=5), atol=2e-3, rtol=0)


def test_a_folder_of_sentence_transformers_says_how_it_pools_and_where_it_cuts(encoder_folder: Path) -> None:
    (encoder_folder / "1_Pooling").mkdir()
    (encoder_folder / "1_Pooling" / "config.json").write_text(
        json.dumps({"word_embedding_dimension": 16, "pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False})
    )
    (encoder_folder / "sentence_bert_config.json").write_text('{"max_seq_length": 7}')
    encode = load(encoder_folder)
    assert encode.max_length == 7 and load(encoder_folder, max_length=9).max_length == 9
    torch.testing.assert_close(encode(TEXTS)[2], by_hand(encoder_folder, TEXTS[2], "cls"), atol=2e-3, rtol=0)
    assert load(encoder_folder, pooling="mean").pooling == "mean"


def test_the_fingerprint_knows_whatever_changes_a_vector(encoder_folder: Path) -> None:
    one = load(encoder_folder).fingerprint
    assert one == load(encoder_folder).fingerprint
    others = [load(encoder_folder, **more).fingerprint for more in ({"pooling": "cls"}, {"prompt": "q: "})]
    others.append(load(encoder_folder, max_length=9).fingerprint)
    weights = load_file(encoder_folder / "model.safetensors")
    key = "encoder.layer.1.output.dense.bias"
    save_file({**weights, key: weights[key] + 1}, encoder_folder / "model.safetensors", {"format": "pt"})
    assert len({one, *others, load(encoder_folder).fingerprint}) == 5


def test_a_prompt_stands_before_every_text(encoder_folder: Path) -> None:
    plain, prompted = load(encoder_folder), load(encoder_folder, prompt="the ")
    torch.testing.assert_close(prompted(["red car"]), plain(["the red car"]))


def without(folder: Path, key: str) -> None:
    weights = load_file(folder / "model.safetensors")
    del weights[key]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def not_a_number(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["embeddings.LayerNorm.bias"][0] = np.nan
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


@pytest.mark.parametrize(
    ("broken", "section", "message"),
    [
        (lambda folder: without(folder, "encoder.layer.0.output.dense.weight"), {}, r"lacks encoder.layer.0.output"),
        (not_a_number, {}, r"has NaN or infinity in embeddings.LayerNorm.bias"),
        (
            lambda folder: (folder / "modules.json").write_text('[{"type": "sentence_transformers.models.Dense"}]'),
            {},
            r"layers beyond its pooling \(Dense\)",
        ),
        (lambda folder: (folder / "config.json").unlink(), {}, r"cannot be loaded as AutoModel"),
        (lambda folder: None, {"pooling": "max"}, r"run.con_d.pooling is 'max'; choose one of mean, cls, last"),
        (lambda folder: None, {"max_length": 17}, r"run.con_d.max_length is 17; allowed is a number of tokens .* 16"),
    ],
)
def test_what_would_judge_wrongly_is_refused(
    encoder_folder: Path, broken: Any, section: dict[str, Any], message: str
) -> None:
    broken(encoder_folder)
    with pytest.raises(ValueError, match=message):
        load(encoder_folder, **section)


def test_a_folder_that_is_not_there_is_named() -> None:
    with pytest.raises(ValueError, match=r"run.con_d.encoder: no folder at ./none"):
        load_text_encoder("./none", "run.con_d.encoder", CPU, {})
