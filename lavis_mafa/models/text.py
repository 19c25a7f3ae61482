"""The tokenizer of a model: a hub name, a local folder, or a vocabulary file."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import BatchEncoding, BertTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import convert_slow_tokenizer

from lavis_mafa.common.files import local_file
from lavis_mafa.common.hashing import digest

KEPT_CAPTIONS = 1 << 18  # some 100 MB of token ids


def load_tokenizer(vocab: str = "bert-base-uncased") -> BertTokenizer:
    """BERT's WordPiece tokenizer from a vocabulary file, a local folder, or a hub name.

    Raises:
        ValueError: a path that does not exist, or a hub name that cannot be had.
    """
    path = local_file(vocab) if vocab.startswith("package:") else Path(vocab).expanduser()
    if path.is_file():
        return BertTokenizer(str(path), do_lower_case=True)
    if "/" in vocab and not path.is_dir() and path.suffix == ".txt":
        raise ValueError(
            f"model.vocab: no vocabulary file at {vocab}; set it to a vocab.txt, a local folder, or a hub name"
        )
    try:
        return BertTokenizer.from_pretrained(str(path) if path.is_dir() else vocab)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"model.vocab: {vocab!r} is neither a local file or folder nor a tokenizer that can be downloaded here "
            f"({error}); set model.vocab to a BERT vocabulary file with one token per line"
        ) from error


def tokenize(tokenizer: BertTokenizer, texts: list[str], max_length: int, device: Any) -> Any:
    """Token ids and mask, (B, T) with T the longest text of the batch: padding to max_length buys nothing."""
    limits = {"padding": "longest", "truncation": True, "max_length": max_length}
    return _quickest(tokenizer, "".join(texts))(texts, **limits, return_tensors="pt").to(device)


def _quickest(tokenizer: BertTokenizer, text: str) -> PreTrainedTokenizerBase:
    """The compiled twin where it gives the same ids: beyond ASCII the two know different versions of Unicode, and marks
    such as [SEP] in a text they find differently."""
    return _compiled(tokenizer) if text.isascii() and "[" not in text else tokenizer


@lru_cache(maxsize=16)
def _compiled(tokenizer: BertTokenizer) -> PreTrainedTokenizerFast:
    """The same tokenizer in Rust: BertTokenizer is Python, and takes 0.5 ms a caption."""
    sides = {"padding_side": tokenizer.padding_side, "truncation_side": tokenizer.truncation_side}
    twin = PreTrainedTokenizerFast(tokenizer_object=convert_slow_tokenizer(tokenizer), **sides)
    twin.add_special_tokens(tokenizer.special_tokens_map)
    return twin


@dataclass(frozen=True)
class CaptionTokens:
    """Many texts, tokenized once: any block of them is padded to its own longest, as if tokenized alone."""

    ids_CT: Tensor  # int32
    length_C: Tensor

    @classmethod
    def of(cls, tokens: Any) -> CaptionTokens:
        """tokens: what `tokenize` gave."""
        return cls(tokens.input_ids.int(), tokens.attention_mask.sum(1))

    @classmethod
    def joined(cls, tables: Sequence[CaptionTokens]) -> CaptionTokens:
        """The texts of all tables, one after the other. Behind a text stands 0, where no attention looks."""
        longest = max(table.ids_CT.shape[1] for table in tables)
        ids = [F.pad(table.ids_CT, (0, longest - table.ids_CT.shape[1])) for table in tables]
        return cls(torch.cat(ids), torch.cat([table.length_C for table in tables]))

    def to(self, device: Any) -> CaptionTokens:
        return CaptionTokens(self.ids_CT.to(device), self.length_C.to(device))

    def block(self, text_B: Tensor) -> BatchEncoding:
        """Token ids and mask (B, T) of these texts."""
        length_B1 = self.length_C[text_B, None]
        ids_BT = self.ids_CT[text_B, : int(length_B1.max())].long()
        mask_BT = torch.arange(ids_BT.shape[1], device=ids_BT.device) < length_B1
        return BatchEncoding({"input_ids": ids_BT, "attention_mask": mask_BT.long()})


class TokenizedOnce:
    """Raw captions → their tokens; a caption that comes back, with other images or in another epoch, is looked up."""

    def __init__(self, tokenizer: BertTokenizer, prepare: Callable[[str], str], max_length: int) -> None:
        def ids(caption: str) -> array[int]:
            text = prepare(caption)
            return array("i", _quickest(tokenizer, text)(text, truncation=True, max_length=max_length).input_ids)

        self._pad, self._ids = tokenizer.pad, lru_cache(KEPT_CAPTIONS)(ids)

    def __call__(self, captions: Sequence[str]) -> CaptionTokens:
        ids = [self._ids(caption).tolist() for caption in captions]
        return CaptionTokens.of(self._pad({"input_ids": ids}, return_tensors="pt"))


def vocabulary(tokenizer: Any) -> str:
    """Number of words, and a hash of which word has which number."""
    return f"{len(tokenizer)} words, {digest(sorted(tokenizer.get_vocab().items()))}"
