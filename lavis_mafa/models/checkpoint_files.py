"""What is done to the tensors of any checkpoint file before they are fitted to a model.

Tested in tests/models/test_checkpoint_files.py.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

from torch import Tensor

COMPILED = "_orig_mod."  # torch.compile
PARALLEL, LIGHTNING = "module.", "model."  # DistributedDataParallel; the attribute that Lightning's users choose


def unwrapped(state: Mapping[str, Tensor], source: str, prefixes: tuple[str, ...]) -> dict[str, Tensor]:
    """The tensors by the names that they have in the model itself, not in what wrapped it; what goes is logged.

    prefixes: what goes where every key begins with it. `_orig_mod.` of torch.compile goes wherever it stands.
    """
    plain, removed = {key.replace(COMPILED, ""): value for key, value in state.items()}, []
    if plain.keys() != state.keys():
        removed.append(COMPILED)
    while prefix := next((prefix for prefix in prefixes if plain and all(key.startswith(prefix) for key in plain)), ""):
        plain = {key.removeprefix(prefix): value for key, value in plain.items()}
        removed.append(prefix)
    if removed:
        logging.info("%s: %s of a wrapper removed from its keys", source, " and ".join(removed))
    return plain
