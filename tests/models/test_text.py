"""Texts by batch and one by one, and what LAVIS' own tokenizer gives."""

from __future__ import annotations

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
