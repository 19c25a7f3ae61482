"""Blocks of pairs and tokens kept of every text: each pair once, and what tokenizing the block's texts would give."""

from __future__ import annotations

from typing import Any
from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lavis_mafa.models.text import CaptionTokens, TokenizedOnce, load_tokenizer, tokenize
from lavis_mafa.scorers import pair_blocks as module
from lavis_mafa.scorers.pair_blocks import by_image, pair_blocks
from tests.models.tiny import CAPTIONS, VOCAB

PAIRS = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 6)), max_size=40)
LENGTHS = torch.tensor([5, 9, 3, 5, 7, 3, 2])


@given(pairs=PAIRS, size=st.integers(1, 9))
@settings(max_examples=30, deadline=None)
def test_every_pair_is_in_one_block(pairs: list[tuple[int, int]], size: int) -> None:
    image_K, text_K = torch.tensor(pairs, dtype=torch.long).reshape(-1, 2).T
    blocks = list(pair_blocks(image_K, text_K, LENGTHS, size))
    assert sorted(row for block in blocks for row in block.rows_k.tolist()) == list(range(len(pairs)))
    for block in blocks:
        assert 0 < len(block.rows_k) <= size
        assert torch.equal(block.image_N[block.image_of_k], image_K[block.rows_k])
        assert torch.equal(block.text_C[block.text_of_k], text_K[block.rows_k])
        assert len(block.image_N) == len(set(block.image_N.tolist())) and len(block.text_C) <= len(block.rows_k)


def test_windows_go_by_image_and_their_blocks_by_length() -> None:
    image_K, text_K = torch.tensor([3, 0, 3, 0, 1, 1, 0]), torch.tensor([0, 1, 2, 3, 4, 5, 6])
    with mock.patch.object(module, "WINDOW", 4):
        assert [rows.tolist() for rows in by_image(image_K)] == [[1, 3, 6, 4], [5, 0, 2]]
        blocks = list(pair_blocks(image_K, text_K, LENGTHS, 2))
    rows = [block.rows_k.tolist() for block in blocks]
    assert rows == [[6, 3], [4, 1], [5, 2], [0]]  # of 2, 5 | 7, 9 || 3, 3 | 5 tokens


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return load_tokenizer(str(VOCAB))


@given(texts=st.lists(st.integers(0, len(CAPTIONS) - 1), min_size=1, max_size=9), batch=st.integers(1, 4))
@settings(max_examples=15, deadline=None)
def test_a_block_is_what_tokenizing_its_texts_gives(tokenizer: Any, texts: list[int], batch: int) -> None:
    parts = [CAPTIONS[low : low + batch] for low in range(0, len(CAPTIONS), batch)]
    table = CaptionTokens.joined([CaptionTokens.of(tokenize(tokenizer, part, 10, "cpu")) for part in parts])
    expected = tokenize(tokenizer, [CAPTIONS[text] for text in texts], 10, "cpu")
    found = table.block(torch.tensor(texts))
    for name in ("input_ids", "attention_mask"):
        assert torch.equal(found[name], expected[name]) and found[name].dtype == expected[name].dtype
    assert table.length_C.max() == 10, "one caption is cut"


def test_a_caption_is_tokenized_once(tokenizer: Any) -> None:
    prepared: list[str] = []

    def prepare(caption: str) -> str:
        prepared.append(caption)
        return caption.lower()

    once = TokenizedOnce(tokenizer, prepare, 10)
    raw = [caption.upper() for caption in CAPTIONS]
    for asked in (raw, raw[::-1], raw[2:3]):
        expected = tokenize(tokenizer, [caption.lower() for caption in asked], 10, "cpu")
        found = once(asked).block(torch.arange(len(asked)))
        assert torch.equal(found.input_ids, expected.input_ids)
        assert torch.equal(found.attention_mask, expected.attention_mask)
    assert prepared == raw
