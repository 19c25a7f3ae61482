"""A sentence encoder of transformers or sentence-transformers: texts → unit vectors, each text once.

Tested in tests/scorers/test_text_encoder.py against vectors by hand.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from transformers import AutoModel, AutoTokenizer

from lavis_mafa.common.artifacts import reading
from lavis_mafa.common.hashing import digest
from lavis_mafa.encoders.frozen import hub_file, load_frozen, weights_digest

BATCH = 128
KEPT_TEXTS = 1 << 21  # 1.6 GB of 384 numbers; beyond that encoding starts over
LONGEST = 1 << 20  # a tokenizer without a limit says 1e30


def _mean(states_BTD: Tensor, mask_BT: Tensor) -> Tensor:
    mask_BT1 = mask_BT[..., None].to(states_BTD)
    return (states_BTD * mask_BT1).sum(1) / mask_BT1.sum(1)


def _first(states_BTD: Tensor, mask_BT: Tensor) -> Tensor:
    return states_BTD[torch.arange(len(mask_BT)), mask_BT.int().argmax(1)]  # padding may stand left


def _last(states_BTD: Tensor, mask_BT: Tensor) -> Tensor:
    place_BT = torch.arange(mask_BT.shape[1], device=mask_BT.device) * mask_BT
    return states_BTD[torch.arange(len(mask_BT)), place_BT.argmax(1)]


Pool = Callable[[Tensor, Tensor], Tensor]
POOLING: dict[str, Pool] = {"mean": _mean, "cls": _first, "last": _last}
# pooling_mode_… of sentence-transformers' 1_Pooling/config.json, `pooling_mode` since its version 5
NAMES = {"mean_tokens": "mean", "cls_token": "cls", "lasttoken": "last", "mean": "mean", "cls": "cls"}
UNDERSTOOD = ("Transformer", "Pooling", "Normalize")


class TextEncoder:
    """Raw texts → (B, D) of unit length, float32 on the device; a text that comes back is looked up.

    model, tokenizer: of transformers. max_length: tokens beyond it are cut; `cut` counts the texts that lost some, of
    `read` different ones. prompt: what stands before every text, as some encoders were trained with.
    """

    def __init__(
        self, model: Any, tokenizer: Any, *, pooling: str, max_length: int, prompt: str = "", name: str = ""
    ) -> None:
        self.model, self.tokenizer, self.pooling = model, tokenizer, pooling
        self.max_length, self.prompt, self.name = max_length, prompt, name
        self.read = self.cut = 0
        self._row: dict[str, int] = {}
        self._vectors = np.empty((0, model.config.hidden_size), np.float16)

    @cached_property
    def fingerprint(self) -> str:
        words = sorted(self.tokenizer.get_vocab().items())
        return digest(weights_digest(self.model), self.pooling, self.max_length, self.prompt, words)

    def __call__(self, texts: Sequence[str]) -> Tensor:
        if len(self._row) + len(texts) > KEPT_TEXTS:
            self._row.clear()
        if missing := [text for text in dict.fromkeys(texts) if text not in self._row]:
            self._take(missing, self.encoded(missing))
        rows = np.fromiter((self._row[text] for text in texts), np.int64, len(texts))
        return F.normalize(torch.from_numpy(self._vectors[rows]).to(self.model.device).float(), dim=-1)

    def know(self, texts: Sequence[str], vectors_BD: NDArray[np.float16]) -> None:
        """Take vectors that `encoded` gave before; those of texts that are kept already are left as they are."""
        first = {text: at for at, text in enumerate(texts) if text not in self._row}
        self._take([*first], vectors_BD[[*first.values()]])

    def _take(self, texts: list[str], vectors_BD: NDArray[np.float16]) -> None:
        start, end = len(self._row), len(self._row) + len(texts)
        if end > len(self._vectors):
            grown = np.empty((max(end, 2 * len(self._vectors)), self._vectors.shape[1]), np.float16)
            grown[:start] = self._vectors[:start]
            self._vectors = grown
        self._vectors[start:end] = vectors_BD
        self._row.update(zip(texts, range(start, end), strict=True))

    @torch.no_grad()
    def encoded(self, texts: list[str]) -> NDArray[np.float16]:
        """(B, D) of each text anew, in batches of like length, so that little is padded."""
        ids = self.tokenizer([self.prompt + text for text in texts], truncation=False, verbose=False).input_ids
        self._count(np.array([len(each) for each in ids]))
        vectors = np.empty((len(texts), self._vectors.shape[1]), np.float16)
        order = sorted(range(len(texts)), key=lambda at: len(ids[at]))
        for start in range(0, len(texts), BATCH):
            at = order[start : start + BATCH]
            given = [self.prompt + texts[one] for one in at]
            limits = {"padding": True, "truncation": True, "max_length": self.max_length}
            tokens = self.tokenizer(given, **limits, return_tensors="pt").to(self.model.device)
            with torch.autocast(self.model.device.type, enabled=False):
                states_BTD = self.model(**tokens).last_hidden_state
            pooled_BD = POOLING[self.pooling](states_BTD, tokens.attention_mask).float()
            vectors[at] = F.normalize(pooled_BD, dim=-1).half().cpu().numpy()
        return vectors

    def _count(self, length_B: NDArray[np.int64]) -> None:
        cut = int((length_B > self.max_length).sum())
        if cut and not self.cut:
            logging.warning(
                "captions of more than %d tokens are cut by %s; the rest of them is not compared (an encoder with a "
                "longer text, or max_length, changes that)",
                self.max_length,
                self.name or "the encoder",
            )
        self.read, self.cut = self.read + len(length_B), self.cut + cut


def load_text_encoder(name: str, where: str, device: torch.device, section: Mapping[str, object]) -> TextEncoder:
    """The sentence encoder at a local folder or of a Hub name.

    Args:
        name: folder or name.
        where: the key that names it, for errors.
        device: where it runs.
        section: `max_length`, `pooling` and `prompt`, each where the model's own files do not say it, or say otherwise.

    Raises:
        ValueError: naming `where` and a key: no such model, weights that are missing or no numbers, layers behind the
            pooling, an unknown pooling, a length beyond the model's.
    """
    kinds = [entry["type"].rpartition(".")[2] for entry in _json(name, "modules.json") or []]
    if unknown := [kind for kind in kinds if kind not in UNDERSTOOD]:
        raise ValueError(
            f"{where}: {name} has layers beyond its pooling ({', '.join(unknown)}), which are not read here; choose an "
            "encoder of a transformer, a pooling and, at most, a normalisation"
        )
    model = load_frozen(AutoModel, name, where, device)
    tokenizer = load_tokenizer(name, where)
    return TextEncoder(
        model,
        tokenizer,
        pooling=_pooling(name, section.get("pooling"), where),
        max_length=length_limit(name, section.get("max_length"), model, tokenizer, where),
        prompt=str(section.get("prompt") or ""),
        name=name,
    )


def load_tokenizer(name: str, where: str) -> Any:
    """The tokenizer that lies beside a model's weights.

    Raises:
        ValueError: there is none.
    """
    try:
        return AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise ValueError(f"{where}: no tokenizer beside {name} ({error})") from error


def _json(name: str, file: str) -> Any:
    path = hub_file(name, file)
    if not path:
        return None
    with reading(Path(path), "config of an encoder"):
        return json.loads(Path(path).read_text(encoding="utf-8"))


def _pooling(name: str, given: object, where: str) -> str:
    """As given, else as 1_Pooling/config.json has it, else the mean."""
    if given is not None and given not in POOLING:
        raise ValueError(f"{where.rpartition('.')[0]}.pooling is {given!r}; choose one of {', '.join(POOLING)}")
    found = _json(name, "1_Pooling/config.json")
    if given is not None or not found:
        return str(given or "mean")
    modes = [key.removeprefix("pooling_mode_") for key, on in found.items() if on is True and "pooling_mode_" in key]
    modes = modes or [str(found.get("pooling_mode"))]
    if len(modes) != 1 or modes[0] not in NAMES:
        raise ValueError(f"{where}: {name} pools by {', '.join(modes)}; only {', '.join(POOLING)} are read here")
    return NAMES[modes[0]]


def length_limit(name: str, given: object, model: Any, tokenizer: Any, where: str) -> int:
    """Tokens that an encoder reads: as given, else as sentence_bert_config.json has it, else as many as the model
    takes.

    Args:
        name: folder or Hub name.
        given: `max_length` of the section; None: not given.
        model, tokenizer: of transformers.
        where: the key that names them, for errors.

    Raises:
        ValueError: a length that the model cannot read.
    """
    positions = getattr(model.config, "max_position_embeddings", None) or LONGEST
    most = int(min(positions, tokenizer.model_max_length, LONGEST))
    if given is None:
        return min(most, int((_json(name, "sentence_bert_config.json") or {}).get("max_seq_length") or most))
    if not isinstance(given, int) or not 3 <= given <= most:
        raise ValueError(
            f"{where.rpartition('.')[0]}.max_length is {given!r}; allowed is a number of tokens from 3 to {most}"
        )
    return given
