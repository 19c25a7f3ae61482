"""Pairs in the blocks that a matching network takes at a time: few images a block, and captions of like length.

Tested in tests/models/test_pair_blocks.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

BLOCK = 256  # pairs of one pass
WINDOW = 4 * BLOCK  # pairs sorted by length together: more of them pad less, but put more images into a block


@dataclass(frozen=True)
class PairBlock:
    """k pairs, `rows_k` of K: their images and texts, each once, and where the pairs find them."""

    rows_k: Tensor
    image_N: Tensor
    image_of_k: Tensor  # positions in image_N
    text_C: Tensor
    text_of_k: Tensor  # positions in text_C


def by_image(image_K: Tensor) -> tuple[Tensor, ...]:
    """Windows of the pairs, sorted by image: what is costly to fetch of an image is fetched for a window."""
    return torch.split(image_K.argsort(stable=True), WINDOW) if len(image_K) else ()


def pair_blocks(image_K: Tensor, text_K: Tensor, length_C: Tensor, size: int = BLOCK) -> Iterator[PairBlock]:
    """Blocks of pairs with texts of similar length, every pair in one.

    Args:
        image_K, text_K: (K,) the pairs.
        length_C: tokens of every text that text_K may name; a block pads to its longest.
        size: pairs a block, at most.
    """
    for window in by_image(image_K):
        for rows_k in torch.split(window[length_C[text_K[window]].argsort(stable=True)], size):
            image_N, image_of_k = torch.unique(image_K[rows_k], return_inverse=True)
            text_C, text_of_k = torch.unique(text_K[rows_k], return_inverse=True)
            yield PairBlock(rows_k, image_N, image_of_k, text_C, text_of_k)
