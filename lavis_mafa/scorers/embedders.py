"""ITC embeddings from any registered model: BLIP-2 gives Q vectors an image, all others one.

Tested in tests/models/test_embedders.py against LAVIS' own similarities.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeGuard

import lavis_mafa.compat  # noqa: F401  before the first `lavis` import

import torch
import torch.nn.functional as F
from lavis.models.base_model import BaseModel
from lavis.models.blip2_models.blip2_qformer import Blip2Qformer
from torch import Tensor

from lavis_mafa.core.batch import Batch
from lavis_mafa.models.albef.pretrain import AlbefEncoding
from lavis_mafa.models.base import MafaForward
from lavis_mafa.models.blip2.stage1 import MafaBlip2
from lavis_mafa.models.protocols import Encoder
from lavis_mafa.models.text import tokenize


def is_ours(model: BaseModel) -> TypeGuard[Encoder]:
    """Whether a model has encode_image and encode_text as models/base.py asks for them."""
    return isinstance(model, MafaForward | AlbefEncoding)


@torch.no_grad()
def embed_images(model: BaseModel, batch: Batch) -> Tensor:
    """(B, Q, D) of unit length."""
    if is_ours(model):
        return model.encode_image(model.vision_tokens(batch))[1]
    if isinstance(model, Blip2Qformer):
        return MafaBlip2.encode_image(model, model.visual_encoder(batch["image"]))[1]
    tokens = model.visual_encoder.forward_features(batch["image"])
    return F.normalize(model.vision_proj(tokens[:, 0]).float(), dim=-1)[:, None]


@torch.no_grad()
def embed_texts(model: BaseModel, texts: Sequence[str]) -> Tensor:
    """(B, D) of unit length; `texts` have been through the model's own text processor."""
    if is_ours(model):
        return model.encode_text(model.tokenize(list(texts)))
    tokens = tokenize(model.tokenizer, list(texts), model.max_txt_len, next(model.parameters()).device)
    if isinstance(model, Blip2Qformer):
        return MafaBlip2.encode_text(model, tokens)
    bert = getattr(model.text_encoder, "bert", model.text_encoder)
    output = bert(tokens.input_ids, attention_mask=tokens.attention_mask, return_dict=True, mode="text")
    return F.normalize(model.text_proj(output.last_hidden_state[:, 0]).float(), dim=-1)
