"""Checkpoint files that are broken or wrapped: named for what they are, or unwrapped."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from lavis_mafa.models.weights import read_state_dict

STATE = {"a.weight": torch.randn(2, 3), "a.bias": torch.randn(3), "steps": torch.tensor(7)}


def save(state: dict[str, Tensor], path: Path) -> Path:
    save_file(state, path) if path.suffix == ".safetensors" else torch.save({"model": state}, path)
    return path


@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_weights_that_are_no_numbers_are_named(name: str, value: float, dtype: torch.dtype, tmp_path: Path) -> None:
    state = STATE | {"b.weight": torch.tensor([[0.0, value], [1.0, 2.0]], dtype=dtype)}
    with pytest.raises(ValueError, match=rf"{name} has NaN or infinity in b\.weight: .*earlier checkpoint"):
        read_state_dict(save(state, tmp_path / name))


def test_masks_and_empty_tensors_are_numbers(tmp_path: Path) -> None:
    state = STATE | {"mask": torch.tensor([0.0, float("-inf")]), "none": torch.zeros(0, 3)}
    assert read_state_dict(save(state, tmp_path / "w.safetensors")).keys() == state.keys()
