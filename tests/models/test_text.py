"""Texts by batch and one by one, and what LAVIS' own tokenizer gives."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import BertTokenizer

from lavis_mafa.models.text import TokenizedOnce, load_tokenizer, tokenize
from tests.models.tiny import CAPTIONS, VOCAB

MARKS = ["[DEC]", "[ENC]", "[CLS]", "[SEP]", "[PAD]", "[MASK]", "[dec]", "[", "a", "##s", "\t", "\x00", *CAPTIONS[:2]]
WORDS = st.lists(st.sampled_from(MARKS) | st.text(st.characters(max_codepoint=300), max_size=6), max_size=12)


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    """As LAVIS' models take it, with their marks."""
    tokenizer = load_tokenizer(str(VOCAB))
    tokenizer.add_special_tokens({"bos_token": "[DEC]"})
    tokenizer.add_special_tokens({"additional_special_tokens": ["[ENC]"]})
    return tokenizer


@given(texts=st.lists(WORDS, min_size=1, max_size=4), separator=st.sampled_from(["", " "]))
@settings(max_examples=200, deadline=None)
def test_ids_are_those_of_the_tokenizer(tokenizer: Any, texts: list[list[str]], separator: str) -> None:
    joined = [separator.join(words) for words in texts]
    expected = tokenizer(joined, padding="longest", truncation=True, max_length=9)
    assert tokenize(tokenizer, joined, 9, "cpu").input_ids.tolist() == expected.input_ids
    once = TokenizedOnce(tokenizer, str, 9)(joined)
    assert once.ids_CT.tolist() == expected.input_ids
    assert once.length_C.tolist() == [sum(mask) for mask in expected.attention_mask]


def test_plain_text_is_read_as_by_lavis(tokenizer: Any) -> None:
    """Whose BertTokenizer is Python below transformers 5."""
    lavis = BertTokenizer(str(VOCAB))
    assert (
        tokenize(tokenizer, CAPTIONS, 9, "cpu").input_ids.tolist()
        == lavis(CAPTIONS, padding="longest", truncation=True, max_length=9).input_ids
    )


# ---- what a vocabulary is read from


def words_file(folder: Path, encoding: str) -> Path:
    (folder / "vocab.txt").write_text(VOCAB.read_text("utf-8"), encoding)
    return folder / "vocab.txt"


def tokenizer_json(folder: Path) -> Path:
    load_tokenizer(str(VOCAB)).save_pretrained(folder / "whole")
    shutil.copy(folder / "whole" / "tokenizer.json", folder)
    return folder / "tokenizer.json"


VOCABULARIES = {
    "a file": lambda folder: words_file(folder, "utf-8"),
    "a file with a BOM": lambda folder: words_file(folder, "utf-8-sig"),
    "a folder": lambda folder: words_file(folder, "utf-8").parent,
    "a folder with a BOM": lambda folder: words_file(folder, "utf-8-sig").parent,
    "tokenizer.json alone in its folder": lambda folder: tokenizer_json(folder).parent,
    "tokenizer.json": tokenizer_json,
    "what transformers saves": lambda folder: tokenizer_json(folder).parent / "whole",
}


@pytest.mark.parametrize("kind", VOCABULARIES)
def test_every_kind_of_vocabulary_gives_the_same_ids(kind: str, tmp_path: Path) -> None:
    plain, found = load_tokenizer(str(VOCAB)), load_tokenizer(str(VOCABULARIES[kind](tmp_path)))
    assert found.get_vocab() == plain.get_vocab() and len(found) == len(plain)
    assert (
        tokenize(found, CAPTIONS, 9, "cpu").input_ids.tolist() == tokenize(plain, CAPTIONS, 9, "cpu").input_ids.tolist()
    )
    assert found.pad_token_id == plain.pad_token_id


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("words.txt", "a\nred\n[PAD]\n", r"words\.txt has 3 words and lacks \[UNK\], \[CLS\], \[SEP\]"),
        ("empty.txt", "", "lacks"),
        ("gone.txt", None, "no vocabulary file"),
        ("gone.json", None, "no vocabulary file"),
    ],
)
def test_what_is_no_vocabulary_of_bert_is_named(name: str, text: str | None, message: str, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        load_tokenizer(str(tmp_path / name))
