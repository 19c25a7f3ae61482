"""A small plain vision transformer, for images too small for the published towers."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class SmallViT(nn.Module):
    """Pre-norm ViT (Dosovitskiy et al., arXiv 2010.11929) with a class token and learned positions.

    forward: image (B, 3, H, W), scaled to [-1, 1] -> tokens (B, 1 + L, width), the class token first, then the
    L = (image_size / patch_size)^2 patches row by row. Raises ValueError where the sizes do not divide.
    """

    def __init__(self, image_size: int = 48, patch_size: int = 8, width: int = 128, depth: int = 4, heads: int = 4):
        super().__init__()
        if image_size % patch_size or width % heads:
            raise ValueError(
                f"image_size {image_size} must be a multiple of patch_size {patch_size}, width {width} of heads {heads}"
            )
        sizes = {"image_size": image_size, "patch_size": patch_size, "width": width, "depth": depth, "heads": heads}
        self.config = sizes
        self.num_features = width
        self.patches = nn.Conv2d(3, width, patch_size, patch_size)
        self.class_token = nn.Parameter(torch.zeros(1, 1, width))
        self.positions = nn.Parameter(0.02 * torch.randn(1, 1 + (image_size // patch_size) ** 2, width))
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width)

    def forward(self, image: Tensor) -> Tensor:
        patches = self.patches(image).flatten(2).transpose(1, 2)  # (B, L, width)
        tokens = torch.cat([self.class_token.expand(len(image), -1, -1), patches], dim=1) + self.positions
        for block in self.blocks:
            tokens = block(tokens)
        out: Tensor = self.norm(tokens)
        return out


class Block(nn.Module):
    """Self-attention and MLP, each behind its LayerNorm and added to its input."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.norm_attention = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.norm_mlp = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, tokens: Tensor) -> Tensor:  # (B, 1 + L, width)
        tokens = tokens + self.attend(self.norm_attention(tokens))
        out: Tensor = tokens + self.mlp(self.norm_mlp(tokens))
        return out

    def attend(self, tokens: Tensor) -> Tensor:
        queries, keys, values = self.qkv(tokens).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(queries, keys, values)  # (B, heads, 1 + L, width / heads)
        out: Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return out
