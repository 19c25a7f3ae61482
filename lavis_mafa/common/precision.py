"""run.precision as the dtype of autocast, and TF32. Tested in tests/models/test_precision.py."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from omegaconf import DictConfig

PRECISIONS = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


def precision(run_cfg: DictConfig) -> torch.dtype | None:
    """run.precision as autocast's dtype; None: float32."""
    name = run_cfg.get("precision", "fp32")
    if name not in PRECISIONS:
        raise ValueError(f"run.precision is {name!r}; choose one of {', '.join(PRECISIONS)}")
    if name == "fp16" and run_cfg.device == "cpu":
        raise ValueError("run.precision: fp16 needs a GPU; use bf16 or fp32 on a CPU")
    return PRECISIONS[name]


def use_tf32() -> None:
    """Float32 matrix products of GPUs keep 10 bits of 23, several times as fast; where that matters: `full_float32`."""
    torch.set_float32_matmul_precision("high")


@contextmanager
def full_float32(device: str) -> Iterator[None]:
    """Matrix products without autocast and TF32, in all their bits: similarities that differ by 1e-3 would become ties.

    device: the type, cpu or cuda.
    """
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.autocast(device, enabled=False):
            yield
    finally:
        torch.set_float32_matmul_precision(before)
