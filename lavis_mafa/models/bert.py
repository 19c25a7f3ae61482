"""A BERT with token types as the start of LAVIS' BERTs, which have none. Tested in tests/models/test_published.py."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TypeVar

import torch
from torch import Tensor
from transformers import BertConfig, BertModel, PreTrainedModel

TOKEN_TYPES = "embeddings.token_type_embeddings.weight"
POSITIONS = "embeddings.position_embeddings.weight"

Network = TypeVar("Network", bound=PreTrainedModel)


def fold_token_types(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same BERTs without token types: row 0 is added to their positions, in float32.

    A token's embedding is word + position + token type (Devlin et al. 2019, section 3.2), and every token of a caption
    has type 0, so nothing changes. Every other tensor stays as it is, and so does a row that fits no positions.
    """
    folded = dict(state)
    for key in [key for key in state if key.endswith(TOKEN_TYPES)]:
        types_2H, name = folded[key], key.removesuffix(TOKEN_TYPES) + POSITIONS
        positions_PH = folded.get(name)
        if positions_PH is not None and len(types_2H.shape) == 2 and types_2H.shape[1:] == positions_PH.shape[1:]:
            folded[name] = positions_PH.float() + folded.pop(key)[0].float()
            logging.info("%s: row 0 is added to the positions", key)
    return folded


def start_from_bert(network: type[Network], source: str, config: BertConfig) -> Network:
    """A BERT of LAVIS with the weights of `source`, a local folder or a hub name; what these lack is initialised.

    LAVIS' BLIP-2 started without token types: `from_pretrained` in Blip2Base.init_Qformer drops what its BERT lacks.
    Its published checkpoints hold no such row and load as they are; for parity from the start, train LAVIS' own class.

    Raises:
        OSError: no such BERT. RuntimeError: its shapes are not those of `config`.
    """
    model = network.from_pretrained(source, config=config)
    types_2H = token_types(source)
    if types_2H is not None:
        model.load_state_dict(fold_token_types({**model.state_dict(), f"bert.{TOKEN_TYPES}": types_2H}))
    return model


def token_types(source: str) -> Tensor | None:
    """The token types of a BERT, (2, H); None where it has none, as one that LAVIS saved."""
    tables_alone = {"num_hidden_layers": 0, "add_cross_attention": False, "add_pooling_layer": False}
    bert, found = BertModel.from_pretrained(source, dtype=torch.float32, output_loading_info=True, **tables_alone)
    return None if TOKEN_TYPES in found["missing_keys"] else bert.embeddings.token_type_embeddings.weight.detach()
