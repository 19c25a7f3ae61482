"""Reading weights and fitting them to a model, key by key: what came from where, and what did not fit."""

from __future__ import annotations

import json
import logging
import pickle
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from lavis_mafa.common.artifacts import reading
from lavis_mafa.common.files import mistaken
from lavis_mafa.common.tensors import refuse_nan
from lavis_mafa.models.checkpoint_files import LIGHTNING, PARALLEL, unwrapped

VOCABULARY_KEYS = (
    "Qformer.bert.embeddings.word_embeddings.weight",
    "Qformer.cls.predictions.bias",
    "Qformer.cls.predictions.decoder.weight",
    "Qformer.cls.predictions.decoder.bias",
)
APPENDED_TOKENS = 2  # LAVIS appends [DEC] to BERT's vocabulary, BLIP [ENC] too; a larger gap is another vocabulary


@dataclass
class Fit:
    """What a checkpoint gave to a model.

    `loaded`, `missing`, `unexpected`: state_dict keys; `misfits`: keys with both shapes; `notes`: what was adapted.
    """

    source: str
    loaded: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    misfits: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """Tensors of a .safetensors or torch file (also below "model", "state_dict"), or of the shards that an index names.

    Code in a pickle is refused.

    Raises:
        ValueError: a missing, torn or foreign file, or NaN in its tensors.
    """
    path = Path(path)
    if path.name.endswith(".index.json"):
        return _read_shards(path)
    state = _read_safetensors(path) if path.suffix == ".safetensors" else _tensors(read_torch(path), path)
    refuse_nan(state.items(), str(path))
    return state


def _read_shards(index: Path) -> dict[str, Tensor]:
    """All files that an index of transformers names, which stand beside it."""
    with reading(index, "index of shards"):
        names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        files = [index.with_name(name) for name in sorted(names)]  # none in another folder
    return {key: value for file in files for key, value in read_state_dict(file).items()}


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    with reading(path, "safetensors file"):
        return unwrapped(load_file(path), str(path), (PARALLEL,))


def read_torch(path: str | Path) -> object:
    """torch.load with weights_only=True, with errors that say what to do."""
    try:
        with reading(Path(path), "torch checkpoint"):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if what := mistaken(path):
            raise ValueError(f"{path} {what}") from error
        raise ValueError(
            f"{path} contains Python objects besides tensors, which could run code; save its state_dict again, "
            f"best as .safetensors, in an environment that you trust ({str(error).splitlines()[0]})"
        ) from error


def read_metadata(path: str | Path) -> dict[str, str]:
    """The metadata of a .safetensors file, empty where there is none."""
    with safe_open(str(path), framework="pt") as file:
        return file.metadata() or {}


def _tensors(content: object, path: Path) -> dict[str, Tensor]:
    prefixes: tuple[str, ...] = (PARALLEL,)
    if isinstance(content, Mapping):
        for name in ("model", "state_dict", "model_state_dict"):
            if isinstance(content.get(name), Mapping):
                prefixes = (PARALLEL, LIGHTNING) if name == "state_dict" else prefixes
                content = content[name]
                break
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise ValueError(
            f"{path} is not a state_dict, and does not contain one under 'model', 'state_dict' or 'model_state_dict'"
        )
    return unwrapped({str(key): value for key, value in content.items()}, str(path), prefixes)


def fit_state(model: nn.Module, state: Mapping[str, Tensor], source: str, may_miss: tuple[str, ...] = ()) -> Fit:
    """Load `state` into `model`; every gap and every shape that differs is an error.

    The parameters below a prefix of `may_miss` may be absent, all of them: a part that comes in part is an error too.
    A vocabulary that differs by appended tokens (30522 of BERT, 30523 with [DEC]) is filled row by row: the rows both
    have are copied, a further row of the model keeps its initial value.

    Raises:
        ValueError: naming the keys that are missing, unexpected, or of another shape.
    """
    own, fit, ready = model.state_dict(), Fit(source), {}
    for key, value in state.items():
        if key not in own:
            fit.unexpected.append(key)
        elif value.shape == own[key].shape:
            ready[key] = value.to(own[key].dtype)
        elif key in VOCABULARY_KEYS and _is_appended(value, own[key]):
            rows = min(len(value), len(own[key]))
            ready[key] = torch.cat([value[:rows].to(own[key].dtype), own[key][rows:]])
            fit.notes.append(f"{key}: {len(value)} rows into {len(own[key])}")
        else:
            fit.misfits.append(f"{key}: shape {tuple(value.shape)}, the model has {tuple(own[key].shape)}")
    fit.loaded = list(ready)
    fit.missing = [key for key in own if key not in state and not key.endswith("position_ids")]
    given = [name for name, _ in model.named_parameters() if name in state]  # LAVIS saves the buffers of a frozen part
    _refuse_gaps(fit, tuple(prefix for prefix in may_miss if not any(name.startswith(prefix) for name in given)))
    model.load_state_dict(ready, strict=False)
    for note in fit.notes:
        logging.info("%s: %s", source, note)
    return fit


def _is_appended(rows: Tensor, own: Tensor) -> bool:
    return rows.shape[1:] == own.shape[1:] and abs(len(rows) - len(own)) <= APPENDED_TOKENS


def _refuse_gaps(fit: Fit, absent: tuple[str, ...]) -> None:
    gaps = (
        [f"missing: {key}" for key in fit.missing if not key.startswith(absent)],
        [f"unexpected: {key}" for key in fit.unexpected if not key.endswith("position_ids")],
        fit.misfits,
    )
    if not any(gaps):
        return
    shown = [f"  {gap}" for group in gaps for gap in group[:20]]
    more = sum(map(len, gaps)) - len(shown)
    lines = [f"{fit.source} does not fit the model:", *shown, *([f"  … and {more} keys more"] if more else [])]
    lines.append("choose the model_type (arch, widths, vocabulary) that the checkpoint was trained with")
    raise ValueError("\n".join(lines))
