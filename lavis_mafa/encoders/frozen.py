"""Frozen networks of transformers, by hub name or local folder: never partly loaded, never random.

Tested in tests/scorers/test_text_encoder.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers.utils.hub import cached_file

from lavis_mafa.common.hashing import digest_of
from lavis_mafa.common.tensors import refuse_nan, tensor_parts

SERVES_NO_SCORE = ("pooler.", "position_ids")  # may be absent from a file
OF_NO_CONSEQUENCE = ("_name_or_path", "transformers_version")  # in a config


def load_frozen(kind: Any, name: str, where: str, device: torch.device, needs_pooler: bool = False) -> Any:
    """`kind`.from_pretrained in eval mode, float32, without gradients.

    Args:
        kind: an Auto class of transformers.
        name: a local folder or the Hub's name.
        where: the key that names it, for errors.
        device: where it runs.
        needs_pooler: whether weights of a pooler must be there.

    Raises:
        ValueError: naming `where`: no such model, weights that the file lacks, or that are no numbers.
    """
    if is_path(name) and not Path(name).expanduser().is_dir():
        raise ValueError(f"{where}: no folder at {name}; give a folder with config.json and weights, or a hub name")
    try:
        model, info = kind.from_pretrained(
            folder_or_name(name), dtype=torch.float32, output_loading_info=True, trust_remote_code=False
        )
    except (OSError, ValueError, KeyError) as error:
        why = str(error).splitlines()[0]
        raise ValueError(f"{where}: {name} cannot be loaded as {kind.__name__}: {why}") from error
    skipped = () if needs_pooler else SERVES_NO_SCORE
    gaps = sorted(key for key in info["missing_keys"] if not any(part in key for part in skipped))
    if gaps or info["mismatched_keys"]:
        lacking = ", ".join([*gaps, *(str(key[0]) for key in info["mismatched_keys"])][:5])
        raise ValueError(f"{where}: {name} lacks {lacking} of {type(model).__name__}, which would judge by chance")
    refuse_nan(model.state_dict().items(), f"{where}: {name}")
    return model.eval().requires_grad_(False).to(device)


def weights_digest(model: nn.Module) -> str:
    """Hash of weights and config: a stored score is only as good as the network that gave it."""
    config: Any = model.config
    kept = {key: value for key, value in config.to_dict().items() if key not in OF_NO_CONSEQUENCE}
    return digest_of([type(model).__name__, sorted(kept.items(), key=str), *tensor_parts(model.state_dict())])


def is_path(name: str) -> bool:
    """Whether a name is that of a folder here, not of a hub."""
    return name.startswith(("/", "./", "../", "~")) or Path(name).is_dir()


def folder_or_name(name: str) -> str:
    """A folder with `~` resolved, or the Hub's name as it is."""
    return str(Path(name).expanduser()) if is_path(name) else name


def named_folder(section: Mapping[str, object], *keys: str) -> Iterator[tuple[str, str]]:
    """(key, path) of those keys of a judge's section that name a folder here: what must be there before a run."""
    yield from ((key, str(section[key])) for key in keys if section.get(key) and is_path(str(section[key])))


def hub_file(name: str, file: str) -> str | None:
    """The path of a file beside a model's weights; None where there is none."""
    try:
        found: str | None = cached_file(folder_or_name(name), file)
    except OSError:
        return None
    return found
