"""run.precision as the dtype of autocast."""

from __future__ import annotations

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
