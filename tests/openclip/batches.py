"""Batches of random unit features, and the losses' definitions written out pair by pair."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

SCALE = 7.0


def features(B: int, seed: int = 0, D: int = 8) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    image, text = torch.randn(2, B, D, generator=generator)
    return F.normalize(image, dim=1).requires_grad_(), F.normalize(text, dim=1).requires_grad_()


def itc_by_hand(
    logits_RW: Tensor, positives: list[set[int]], dropped: list[set[int]], smooth: list[dict[int, float]]
) -> Tensor:
    """Mean over rows of the cross-entropy with a uniform target over positives, mixed with `smooth` (alpha at -1)."""
    rows = []
    for row, logits_W in enumerate(logits_RW):
        kept = [col for col in range(len(logits_W)) if col not in dropped[row]]
        weights = dict.fromkeys(kept, 0.0)
        alpha = smooth[row].get(-1, 0.0)
        for col in positives[row]:
            weights[col] += (1 - alpha) / len(positives[row])
        for col, weight in smooth[row].items():
            if col in weights:
                weights[col] += weight
        total = sum(weights.values())
        log_norm = torch.logsumexp(logits_W[kept], dim=0)
        rows.append(sum((weights[col] / total) * (log_norm - logits_W[col]) for col in kept))
    return torch.stack(rows).mean()


def siglip_by_hand(logits_BW: Tensor, targets: dict[tuple[int, int], float], dropped: set[tuple[int, int]]) -> float:
    """Sum over pairs of the binary cross-entropy, by row of images."""
    total = 0.0
    for i, row in enumerate(logits_BW.tolist()):
        for t, logit in enumerate(row):
            if (i, t) in dropped:
                continue
            y = targets.get((i, t), 0.0)
            total += y * math.log1p(math.exp(-logit)) + (1 - y) * math.log1p(math.exp(logit))
    return total / len(logits_BW)
