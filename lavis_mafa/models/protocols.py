"""What the rest of the package asks of a model. LAVIS' models have no types: these say what is called on ours."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn
from transformers import BatchEncoding

from lavis_mafa.core.batch import Batch
from lavis_mafa.core.miner import ConnectionMiner
from lavis_mafa.core.settings import MafaSettings
from lavis_mafa.models.teacher import Teacher

Tokens = BatchEncoding | Tensor  # input_ids and attention_mask (B, T); ids alone for open_clip's models


class Encoder(Protocol):
    """Encodes images and captions apart, as a search over a whole test set needs it."""

    def vision_tokens(self, samples: Batch) -> Tensor:
        """(B, L, V), the batch's cached ones or computed."""
        ...

    def encode_image(self, tokens_BLV: Tensor) -> tuple[Tensor, ...]:
        """(image_embeds, image_feat (B, Q, D) of unit length, …)."""
        ...

    def tokenize(self, texts: list[str]) -> Tokens: ...

    def encode_text(self, tokens: Tokens) -> Tensor:
        """(B, D) of unit length."""
        ...


class Matcher(Encoder, Protocol):
    """An encoder that may have a matching head. `has_itm`: it has one; else the last two methods are not called."""

    has_itm: bool
    training: bool

    @property
    def device(self) -> torch.device: ...

    def train(self, mode: bool = True) -> object: ...

    def eval(self) -> object: ...

    def pair_state(self, tokens_NLV: Tensor, tokens: Tokens) -> object:
        """What `match_logits` reads of images and texts."""
        ...

    def match_logits(self, state: object, image_K: Tensor, text_K: Tensor) -> Tensor:
        """(K, 2) of the pairs (image_K[k], text_K[k])."""
        ...


class Student(Matcher, Protocol):
    """A model in training by MAFA."""

    mafa: MafaSettings
    miner: ConnectionMiner
    teacher: Teacher | None
    tower_is_frozen: bool
    visual_encoder: nn.Module  # the tower; open_clip's models hide it
