"""What passes between data, model, miner and judge: samples, collated."""

from __future__ import annotations

from typing import Protocol, TypedDict, cast

import torch
from torch import Tensor


class ByPosition(Protocol):
    """Images or tokens of a batch: a tensor, or what reads those that are asked for."""

    def __getitem__(self, position_K: Tensor, /) -> Tensor: ...


class Batch(TypedDict, total=False):
    """B samples; a task has those fields that its data set gives and its model reads.

    image, judge_image: (B, 3, H, W), as the model and as a judge sees it. image_tokens: (B, L, V) of the tower.
    image0, image1: the two images of a statement (NLVR2). caption: raw; text_input: processed.
    index: the record; text_row: the data set's caption. These and the ids are (B,) int64.
    """

    image: Tensor
    image_tokens: ByPosition
    judge_image: ByPosition
    image0: Tensor
    image1: Tensor
    caption: list[str]
    text_input: list[str]
    index: Tensor
    image_id: Tensor
    text_id: Tensor
    text_row: Tensor
    epoch: int
    iters: int
    num_iters_per_epoch: int


def on_device(batch: Batch, device: torch.device) -> Batch:
    """The batch with its tensors on the device."""
    moved = {name: value.to(device) if isinstance(value, Tensor) else value for name, value in batch.items()}
    return cast(Batch, moved)  # the same names, the same types
