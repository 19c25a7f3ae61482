"""Vision towers for the Q-Former: image (B, 3, H, W) → tokens (B, L, V)."""
