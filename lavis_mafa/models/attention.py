"""Attention of the Q-Former and of ALBEF's BERT, fused: LAVIS' weights and keys, fewer passes over memory.

Tested in tests/models/test_blip2_parity.py and test_albef.py: outputs equal LAVIS' own attention.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from lavis.models.blip2_models.Qformer import BertSelfAttention
from lavis.models.med import BertSelfAttention as MedSelfAttention
from torch import Tensor, nn


class FusedAttention:
    """Mixin over LAVIS' two BertSelfAttention: its forward on torch's fused kernel.

    In cross-attention the keys and values of an image are projected once and then taken by `image_rows` (K,), so that
    an image that stands in several pairs of a batch costs one projection.
    """

    image_rows: Tensor | None = None

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        head_mask: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
        past_key_value: tuple[Tensor, Tensor] | None = None,
        output_attentions: bool = False,
    ) -> tuple[Any, ...]:
        assert head_mask is None and not output_attentions, "attention maps need LAVIS' own attention"
        is_cross = encoder_hidden_states is not None
        source = encoder_hidden_states if is_cross else hidden_states
        key, value = self.transpose_for_scores(self.key(source)), self.transpose_for_scores(self.value(source))
        if is_cross:
            attention_mask = None  # every token of an image counts (LAVIS passes a mask of ones)
            if self.image_rows is not None:
                # not key[rows]: threads add up its gradient in any order, so that no two runs are the same to the bit
                key, value = key.index_select(0, self.image_rows), value.index_select(0, self.image_rows)
        elif past_key_value is not None:
            key, value = torch.cat([past_key_value[0], key], 2), torch.cat([past_key_value[1], value], 2)
        query = self.transpose_for_scores(self.query(hidden_states))
        dropout = self.dropout.p if self.training else 0.0
        mask = None if attention_mask is None else attention_mask.to(query.dtype)
        context = F.scaled_dot_product_attention(query, key, value, mask, dropout_p=dropout)
        return context.permute(0, 2, 1, 3).flatten(2), (key, value)


class FusedSelfAttention(FusedAttention, BertSelfAttention):
    """The Q-Former's."""


class FusedMedAttention(FusedAttention, MedSelfAttention):
    """That of ALBEF's BERT."""


FUSED = {BertSelfAttention: FusedSelfAttention, MedSelfAttention: FusedMedAttention}


def fuse_attention(encoder: nn.Module) -> None:
    """Turn every BertSelfAttention below `encoder` into the fused one; parameters and their names stay."""
    for module in encoder.modules():
        module.__class__ = FUSED.get(type(module), type(module))


@contextmanager
def images_of_pairs(encoder: nn.Module, image_rows: Tensor | None) -> Iterator[None]:
    """Within this context pair k attends to image `image_rows[k]` of the (B, L, V) encoder states."""
    fused = [module for module in encoder.modules() if isinstance(module, FusedAttention)]
    for module in fused:
        module.image_rows = image_rows
    try:
        yield
    finally:
        for module in fused:
            module.image_rows = None
