"""Which weights a model starts from by its config: `load_finetuned`, `load_pretrained`, both honoured when false."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from lavis.common.registry import registry
from torch import Tensor, nn

from lavis_mafa.common.downloads import fetched, is_url
from lavis_mafa.common.files import local_file
from lavis_mafa.common.tensors import refuse_nan
from lavis_mafa.models.blip2.hugging_face import BESIDE, BESIDE_KEYS, from_hugging_face, is_hugging_face
from lavis_mafa.models.weights import Fit, fit_state, read_state_dict

PATHS = ("finetuned", "pretrained")  # as in LAVIS, the first wins where both are loaded
CHECKPOINT_KEYS = ("load_finetuned", "load_pretrained", "finetuned", "pretrained")
FROZEN_TOWER = ("visual_encoder.",)  # LAVIS' checkpoints leave the frozen tower out: its own file gives it
IN_FOLDER = ("model.safetensors", "model.safetensors.index.json")  # what we, and transformers, save in a folder
Adapt = Callable[[Mapping[str, Tensor], nn.Module], Mapping[str, Tensor]]


def _as_it_is(state: Mapping[str, Tensor], model: nn.Module) -> Mapping[str, Tensor]:
    return state


def checkpoint_key(cfg: Mapping[str, Any]) -> str | None:
    """The key of a model config that names what is loaded: as in LAVIS, `finetuned` before `pretrained`, or None."""
    if cfg.get("load_finetuned", False):
        return "finetuned"
    return "pretrained" if cfg.get("load_pretrained", True) else None


def checkpoint_path(cfg: Mapping[str, Any]) -> str | None:
    """What a model config loads; None for nothing, and where the path is missing."""
    key = checkpoint_key(cfg)
    return (cfg.get(key) or None) if key else None


def weights_switches(
    packaged: Mapping[str, Any],
    given: Mapping[str, Any],
    where: str = "model",
    insisted: Collection[str] = PATHS,
) -> dict[str, bool]:
    """`load_finetuned` and `load_pretrained` such that the checkpoint that the user named is the one that is loaded.

    Args:
        packaged: the model's config before the user's keys; given: these keys.
        where: the section of the config, for messages.
        insisted: the keys whose path must be loaded or refused, as those on the command line; of the others a switch
            that the user wrote may say that they are not.

    Returns:
        The switches that differ from what the config says, empty where it is right.

    Raises:
        ValueError: the path would not be loaded, as a switch that the user wrote forbids it.
    """
    named = [key for key in PATHS if given.get(key) and given[key] != packaged.get(key)]
    wanted = [key for key in named if key in insisted] or named
    if not wanted or checkpoint_key({**packaged, **given}) == wanted[0]:
        return {}
    key = wanted[0]  # as in LAVIS, `finetuned` before `pretrained`
    needed = {"load_finetuned": key == "finetuned"} | ({"load_pretrained": True} if key == "pretrained" else {})
    against = [switch for switch, value in needed.items() if given.get(switch) is (not value)]
    if against and key in insisted:
        switch, value = f"{where}.{against[0]}", str(needed[against[0]]).lower()
        raise ValueError(
            f"{where}.{key} is {given[key]}, but {switch} keeps it from being loaded: "
            f"set {switch}: {value}, or {where}.{key}: null"
        )
    return {} if against else needed


def local_files(cfg: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(key, path) of the local files that a model config names: its tower, its words, the one checkpoint it loads."""
    loaded = checkpoint_key(cfg)
    for key in ["vit_weights", "vocab"] + [loaded] * bool(loaded):
        path = str(cfg.get(key) or "")
        by_name = key == "vocab" and "/" not in path  # a tokenizer of the hub
        if path and not by_name and not is_url(path):
            yield key, path


def load_from_config(
    model: nn.Module, cfg: Mapping[str, Any], adapt: Adapt = _as_it_is, may_miss: tuple[str, ...] = ()
) -> Fit | None:
    """Load `finetuned` or `pretrained` as LAVIS does, but nothing where `load_pretrained` is false (LAVIS ignores it).

    `model.origin` then says of every part where its weights came from. `adapt` brings published layouts to
    the model's keys; the prefixes `may_miss` need not be there.

    Raises:
        ValueError: no path where one is needed, or a checkpoint that does not fit, key by key.
    """
    if key := checkpoint_key(cfg):
        if not cfg.get(key):
            raise ValueError(
                f"model.load_{key} is true but model.{key} is not set; set it to a file, or set load_{key}: false"
            )
        fit = load_checkpoint(model, str(cfg[key]), adapt, may_miss)
        if any(name.startswith(FROZEN_TOWER) for name in fit.loaded):
            # its own file would give other weights: a checkpoint of ours must hold the tower
            model.tower_has_weights = False
        _tell(model, fit)
        return fit
    if getattr(model, "tower_is_frozen", False) and not getattr(model, "tower_has_weights", True):
        raise ValueError(
            "model.freeze_vit is true but the tower has no weights; set model.vit_weights, or freeze_vit: false"
        )
    _tell(model, None)
    return None


def load_checkpoint(model: nn.Module, path: str, adapt: Adapt = _as_it_is, may_miss: tuple[str, ...] = ()) -> Fit:
    """Fit a local file or folder, a packaged `package:` file, or a URL that the config names into `model`."""
    own_file = FROZEN_TOWER if getattr(model, "part_files", {}).get("visual_encoder") else ()
    state, lost = read_checkpoint(path)
    return fit_state(model, adapt(state, model), str(weights_file(path)), own_file + may_miss + lost)


def read_checkpoint(path: str) -> tuple[Mapping[str, Tensor], tuple[str, ...]]:
    """The tensors by our names, and the prefixes of those that the layout has no room for and nothing else gave.

    Tensors of transformers' Blip2ForImageTextRetrieval are renamed; what `lavis_mafa.convert` kept beside them is read.
    """
    file = weights_file(path)
    state = read_state_dict(file)
    if not is_hugging_face(state):
        return state, ()
    beside = file.parent / BESIDE
    if beside.is_file():
        return from_hugging_face(state, read_state_dict(beside)), ()
    return from_hugging_face(state), BESIDE_KEYS


def weights_file(path: str) -> Path:
    """A local file or the one in a folder, a packaged `package:` file, or a URL that the config names, fetched once."""
    if is_url(path):
        path = str(fetched(path, registry.get_path("cache_root")))
    folder = Path(path).expanduser()
    in_folder = next((folder / name for name in IN_FOLDER if (folder / name).is_file()), path)
    return local_file(str(in_folder))


def _tell(model: nn.Module, fit: Fit | None) -> None:
    loaded = set(fit.loaded) if fit else set()
    total, taken = Counter(), Counter()
    state = model.state_dict()
    for key in state:
        part = key.split(".")[0]
        total[part] += 1
        taken[part] += key in loaded
    model.origin = {}
    for part, count in total.items():
        file = getattr(model, "part_files", {}).get(part)
        rest = f"own file {file}" if file else "a copy" if part in getattr(model, "copies", ()) else "initialised"
        source = f"{taken[part]} of {count} tensors from {fit.source}" if fit and taken[part] else rest
        model.origin[part] = source
        logging.info("weights of %s: %s", part, source)
        others = [(key, value) for key, value in state.items() if key.startswith(f"{part}.") and key not in loaded]
        refuse_nan(others, f"{part} ({rest})")
