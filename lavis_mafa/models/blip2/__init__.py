"""BLIP-2: stage 1 (Q-Former) on the shared forward, and stage 2 in front of a frozen language model."""
