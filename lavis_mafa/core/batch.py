"""What passes between data, model, miner and judge: samples, collated."""

from __future__ import annotations

from collections.abc import Mapping
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


def on_device(batch: Batch, device: torch.device, *less: str) -> Batch:
    """The batch with its tensors on the device, less those of these names; nothing waits for the copy."""
    moved = {
        name: sent(value, device) if isinstance(value, Tensor) and name not in less else value
        for name, value in batch.items()
    }
    return cast(Batch, moved)  # the same names, the same types


def sent(tensor: Tensor, device: torch.device | str) -> Tensor:
    """The tensor on the device, without waiting for it: to a GPU from pinned memory."""
    if torch.device(device).type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def rows_of(values: ByPosition, position_K: Tensor) -> Tensor:
    """values[position_K], of positions on the CPU."""
    return values[sent(position_K, values.device)] if isinstance(values, Tensor) else values[position_K]


def fetched(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Tensors of one shape on the CPU, by one wait for the device."""
    if tensors[0].device.type == "cpu":
        return tensors
    return torch.stack(tensors).cpu().unbind()


class Fetching:
    """Tensors on their way to the CPU; nothing waits until `values` is asked for."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self._values = {name: value.detach().to("cpu", non_blocking=True) for name, value in tensors.items()}
        self._arrived: torch.cuda.Event | None = None
        if any(value.device.type == "cuda" for value in tensors.values()):
            self._arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]  # of torch
            self._arrived.record()

    @property
    def values(self) -> dict[str, Tensor]:
        if self._arrived is not None:
            self._arrived.synchronize()
        return self._values
