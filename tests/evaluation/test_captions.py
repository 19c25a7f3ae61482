"""Caption metrics with and without Java."""

from __future__ import annotations

import shutil
from typing import Any

import pytest
from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

from lavis_mafa.evaluation import caption_metrics as captions
from lavis_mafa.evaluation.caption_metrics import PTB, PYTHON, caption_metrics, cider_of_images, python_words

REFERENCES = {
    1: ["a man rides a horse", "a man is riding a brown horse ."],
    2: ["two dogs run on grass", "dogs running across a field"],
    3: ["a red bus in the street", "the bus is red"],
}
GENERATED = {1: "a man rides a horse", 2: "two cats sleep on grass", 3: "a red bus"}


@pytest.mark.parametrize(
    ("caption", "words"),
    [
        ("A man's dog, isn't it?", "a man 's dog is n't it"),
        ("well-known   3.5 kg; (big)", "well-known 3.5 kg ( big )"),
        ("they're here...", "they 're here"),
        ('a sign says "stop" , "now"', "a sign says stop now"),
    ],
)
def test_words_of_python(caption: str, words: str) -> None:
    assert python_words(caption) == words


def test_without_java_three_metrics_and_the_tokenizer_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(captions.shutil, "which", lambda name: None)
    found = caption_metrics(GENERATED, REFERENCES)
    assert found["tokenizer"] == PYTHON and found["METEOR"] is None and found["SPICE"] is None
    assert set(found["missing"]) == {"METEOR", "SPICE"}
    of_images = cider_of_images(GENERATED, REFERENCES)
    assert set(of_images) == set(GENERATED) and sum(of_images.values()) / 3 == pytest.approx(found["CIDEr"])
    assert of_images[1] > of_images[2] >= 0
    perfect = caption_metrics({image: message[0] for image, message in REFERENCES.items()}, REFERENCES)
    assert perfect["Bleu_4"] == pytest.approx(1) and perfect["ROUGE_L"] == pytest.approx(1)
    assert 0 < found["CIDEr"] < perfect["CIDEr"]
    assert 0 < found["Bleu_1"] < 1


def test_a_java_that_does_not_run_is_no_crash(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(captions.shutil, "which", lambda name: "/usr/bin/java")

    def broken(self: Any, texts: Any) -> Any:
        raise OSError("no java")

    monkeypatch.setattr(captions.PTBTokenizer, "tokenize", broken)
    assert caption_metrics(GENERATED, REFERENCES)["tokenizer"] == PYTHON


def test_a_metric_that_breaks_is_named_as_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(captions, "_ptb_words", lambda *texts: texts)
    monkeypatch.setattr(captions, "_java_scores", lambda *texts: {"METEOR": None, "SPICE": 0.2})
    found = caption_metrics(GENERATED, REFERENCES)
    assert found["tokenizer"] == PTB and found["SPICE"] == 0.2 and set(found["missing"]) == {"METEOR"}


@pytest.mark.skipif(shutil.which("java") is None, reason="needs Java")
def test_with_java_all_metrics_and_the_difference() -> None:
    found = caption_metrics(GENERATED, REFERENCES)
    assert found["tokenizer"] == PTB and 0 < found["METEOR"] < 1
    of_images = cider_of_images(GENERATED, REFERENCES)
    assert sum(of_images.values()) / len(of_images) == pytest.approx(found["CIDEr"])
    assert set(found["difference"]) == {"Bleu_1", "Bleu_2", "Bleu_3", "Bleu_4", "ROUGE_L", "CIDEr"}
    assert all(abs(value) < 1e-6 for value in found["difference"].values())  # of these captions


@pytest.mark.skipif(shutil.which("java") is None, reason="needs Java")
def test_quotes_are_dropped_as_java_drops_them() -> None:
    caption = 'a sign says "stop" in the "old town"'
    (words,) = PTBTokenizer().tokenize({0: [{"caption": caption}]})[0]
    assert python_words(caption) == words
