"""The method itself, on torch, NumPy, FAISS and pandas; imports neither LAVIS nor transformers.

A training loop of your own needs the names below (docs/guides/own-loop.md); each is imported when it is first used.
"""

from __future__ import annotations

from importlib import import_module

EXPORTS = {
    "known_positives": "pairs",
    "hardest_pairs": "pairs",
    "judge": "pairs",
    "settle": "pairs",
    "managed_itc_targets": "losses",
    "itc_loss": "losses",
    "itm_labels": "losses",
    "itm_loss": "losses",
    "GritPlanner": "grit",
    "PlannedBatchSampler": "plan",
    "EmbeddingStore": "embeddings",
    "ConnectionMiner": "miner",
    "MafaSettings": "settings",
}
__all__ = list(EXPORTS)


def __getattr__(name: str) -> object:
    if name in EXPORTS:
        return getattr(import_module(f"lavis_mafa.core.{EXPORTS[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
