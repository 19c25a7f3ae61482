"""A tiny BERT and its tokenizer, as folders of transformers have them."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import BertConfig, BertModel, BertTokenizerFast

MARKS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = [*MARKS, *sorted({*"a the dog cat car red blue runs sits sleeps on grass".split(" ")})]  # noqa: SIM905


def save_tokenizer(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(WORDS))
    BertTokenizerFast(str(folder / "vocab.txt"), do_lower_case=True).save_pretrained(folder)


def tiny_bert(**more: int) -> BertConfig:
    sizes = {"vocab_size": len(WORDS), "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    return BertConfig(**sizes, intermediate_size=32, max_position_embeddings=16, initializer_range=0.5, **more)


def save_encoder(folder: Path) -> None:
    save_tokenizer(folder)
    torch.manual_seed(0)
    BertModel(tiny_bert()).save_pretrained(folder)
