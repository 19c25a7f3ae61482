"""The tokenizer of a model: a hub name, a local folder, or a vocabulary file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import BertTokenizer

from lavis_mafa.models.towers import local_file


def load_tokenizer(vocab: str = "bert-base-uncased") -> BertTokenizer:
    """BERT's WordPiece tokenizer from a vocabulary file, a local folder, or a hub name.

    Raises:
        ValueError: a path that does not exist, or a hub name that cannot be had.
    """
    path = local_file(vocab) if vocab.startswith("package:") else Path(vocab).expanduser()
    if path.is_file():
        return BertTokenizer(str(path), do_lower_case=True)
    if "/" in vocab and not path.is_dir() and path.suffix == ".txt":
        raise ValueError(f"model.vocab: no vocabulary file at {vocab}; give a vocab.txt, a local folder, or a hub name")
    try:
        return BertTokenizer.from_pretrained(str(path) if path.is_dir() else vocab)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"model.vocab: {vocab!r} is neither a local file or folder nor a tokenizer that can be fetched here "
            f"({error}); set model.vocab to a BERT vocabulary file, one token a line"
        ) from error


def tokenize(tokenizer: BertTokenizer, texts: list[str], max_length: int, device: Any) -> Any:
    """Token ids and mask, (B, T) with T the longest text of the batch: padding to max_length buys nothing."""
    return tokenizer(texts, padding="longest", truncation=True, max_length=max_length, return_tensors="pt").to(device)
