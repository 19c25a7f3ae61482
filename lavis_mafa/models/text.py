"""The tokenizer of a model: a hub name, a local folder, or a vocabulary file."""

from __future__ import annotations

import codecs
import shutil
from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import BatchEncoding, BertTokenizerFast, PreTrainedTokenizerBase

from lavis_mafa.common.files import local_file
from lavis_mafa.common.hashing import digest
from lavis_mafa.core.batch import sent

MARKS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
KEPT_CAPTIONS = 1 << 18  # some 100 MB of token ids


def load_tokenizer(vocab: str = "bert-base-uncased") -> BertTokenizerFast:
    """BERT's WordPiece tokenizer from a vocabulary file, a tokenizer.json, a local folder, or a hub name.

    Raises:
        ValueError: a path that does not exist, a hub name that cannot be had, or no vocabulary of BERT.
    """
    if not vocab:
        raise ValueError(f"model.vocab is {vocab!r}: set it to a vocab.txt, a local folder, or a hub name")
    path = local_file(vocab) if vocab.startswith("package:") else Path(vocab).expanduser()
    if "/" in vocab and not path.exists() and path.suffix in (".txt", ".json"):
        raise ValueError(
            f"model.vocab: no vocabulary file at {vocab}; set it to a vocab.txt, a local folder, or a hub name"
        )
    try:
        tokenizer = _read_tokenizer(path) if path.exists() else BertTokenizerFast.from_pretrained(vocab)
    except (OSError, TypeError, ValueError) as error:
        raise ValueError(
            f"model.vocab: {vocab!r} is neither a local file or folder nor a tokenizer that can be downloaded here "
            f"({error}); set model.vocab to a BERT vocabulary file with one token per line"
        ) from error
    words = tokenizer.backend_tokenizer.get_vocab(with_added_tokens=False)
    if missing := [mark for mark in MARKS if mark not in words]:
        raise ValueError(
            f"model.vocab: {vocab} has {len(words)} words and lacks {', '.join(missing)}; set model.vocab to a BERT "
            "vocabulary file with one token per line"
        )
    return tokenizer


def _read_tokenizer(path: Path) -> BertTokenizerFast:
    if path.is_file() and path.suffix == ".json":
        return BertTokenizerFast(tokenizer_file=str(path))
    with _without_bom(path) as plain:
        if path.is_dir():
            return BertTokenizerFast.from_pretrained(str(plain))
        return BertTokenizerFast(str(plain), do_lower_case=True)


@contextmanager
def _without_bom(path: Path) -> Iterator[Path]:
    """The vocabulary file or folder; where its first word begins with a byte order mark, a copy without the mark."""
    words = path / "vocab.txt" if path.is_dir() else path
    content = words.read_bytes() if words.is_file() else b""
    if not content.startswith(codecs.BOM_UTF8):
        yield path
        return
    with TemporaryDirectory() as folder:
        copy = Path(folder, "vocab.txt")
        copy.write_bytes(content.removeprefix(codecs.BOM_UTF8))
        for settings in path.glob("*.json"):  # of a folder
            shutil.copy(settings, folder)
        yield Path(folder) if path.is_dir() else copy


def tokenize(
    tokenizer: BertTokenizerFast, texts: list[str], max_length: int, device: torch.device | str
) -> BatchEncoding:
    """Token ids and mask, (B, T) with T the longest text of the batch: padding to max_length buys nothing.

    On the device, and as host_ids and host_mask on the CPU: what they select is known without waiting for the device.
    """
    limits = {"padding": "longest", "truncation": True, "max_length": max_length}
    here = tokenizer(texts, **limits, return_tensors="pt")
    tokens = BatchEncoding({name: sent(value, device) for name, value in here.items()})
    tokens.update(host_ids=here.input_ids, host_mask=here.attention_mask)
    return tokens


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

    def to(self, device: torch.device | str) -> CaptionTokens:
        return CaptionTokens(self.ids_CT.to(device), self.length_C.to(device))

    def block(self, text_B: Tensor) -> BatchEncoding:
        """Token ids and mask (B, T) of these texts."""
        length_B1 = self.length_C[text_B, None]
        ids_BT = self.ids_CT[text_B, : int(length_B1.max())].long()
        mask_BT = torch.arange(ids_BT.shape[1], device=ids_BT.device) < length_B1
        return BatchEncoding({"input_ids": ids_BT, "attention_mask": mask_BT.long()})


class TokenizedOnce:
    """Raw captions → their tokens; a caption that comes back, with other images or in another epoch, is looked up."""

    def __init__(self, tokenizer: BertTokenizerFast, prepare: Callable[[str], str], max_length: int) -> None:
        def ids(caption: str) -> array[int]:
            return array("i", tokenizer(prepare(caption), truncation=True, max_length=max_length).input_ids)

        self._pad, self._ids = tokenizer.pad_token_id, lru_cache(KEPT_CAPTIONS)(ids)

    def __call__(self, captions: Sequence[str]) -> CaptionTokens:
        rows = [torch.tensor(self._ids(caption), dtype=torch.int32) for caption in captions]
        return CaptionTokens(pad_sequence(rows, True, self._pad), torch.tensor([len(row) for row in rows]))


def vocabulary(tokenizer: PreTrainedTokenizerBase) -> str:
    """Number of words, and a hash of which word has which number."""
    return f"{len(tokenizer)} words, {digest(sorted(tokenizer.get_vocab().items()))}"
