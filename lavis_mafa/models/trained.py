"""What a checkpoint of a model holds: its state_dict less the frozen parts that have files of their own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from lavis_mafa.common.hashing import digest_of
from lavis_mafa.common.tensors import tensor_parts


def trained_state(model: nn.Module) -> dict[str, torch.Tensor]:
    """The state_dict less the frozen parts that have their own files (a tower, a language model), as LAVIS has it."""
    tower = ("visual_encoder.",) if getattr(model, "tower_has_weights", False) else ()
    given = tower + getattr(model, "parts_of_own_files", ())
    return {key: value for key, value in model.state_dict().items() if not key.startswith(given)}


def weights_hash(network: nn.Module) -> str:
    """Of what a checkpoint of the model holds: the frozen parts that have files of their own are left out."""
    return digest_of(tensor_parts(trained_state(network)))


def size(model: nn.Module) -> str:
    """Identifies networks that cannot hold each other's weights."""
    state = model.state_dict()
    return f"{type(model).__name__}, {len(state)} tensors of {sum(value.numel() for value in state.values()):,} numbers"


def load_trained(model: nn.Module, state: Mapping[str, Any]) -> None:
    """Take back what `trained_state` gave."""
    own = model.state_dict()
    assert set(state) <= set(own), "a checkpoint of the same config holds no other keys"
    model.load_state_dict({**own, **state})
