"""The tensors of a state_dict: whether they are numbers, and what names them for a hash."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import Tensor

CHECKED = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def tensor_parts(state: Mapping[str, Tensor]) -> Iterator[object]:
    """What names the tensors of a state_dict, for common.hashing: key, dtype, shape and numbers of each."""
    for key, value in sorted(state.items()):
        yield from (key, str(value.dtype), tuple(value.shape))
        yield value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()


def refuse_nan(state: Iterable[tuple[str, Tensor]], source: str) -> None:
    """Refuses weights that are no numbers: a network with one of them gives NaN for everything.

    Raises:
        ValueError: naming the source and its tensors with NaN or infinity (-inf may stand in a mask).
    """
    broken = [key for key, value in state if _is_broken(value)]
    if broken:
        more = f" and {len(broken) - 5} more" if len(broken) > 5 else ""
        raise ValueError(
            f"{source} has NaN or infinity in {', '.join(broken[:5])}{more}: the training that wrote it diverged; take "
            "an earlier checkpoint"
        )


def _is_broken(value: Tensor) -> bool:
    if value.dtype not in CHECKED or value.is_meta or not value.numel():
        return False
    return not bool((value < torch.inf).all())  # which is false of NaN
