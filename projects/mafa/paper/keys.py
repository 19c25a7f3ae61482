"""What names a run: its settings, the data it reads, and RESULTS.

The package's code and the versions of the libraries have no part in a key, so that a row survives every edit that
changes no figure. The row says which they were.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lavis_mafa.data.annotations import read_annotations

# Raise it by one when runs would end with other figures than their rows: because our code changed (a loss, a default
# of a config, what scenes and photographs.py draw, a packaged network), or a library beneath it. All runs are then due
# again. Leave it for what changes no figure: comments, names, moved files, logs, speed. When in doubt, run a few anew
# and compare runs.parquet with the one here: on one kind of machine figures are equal to the last digit.
#     bash run_scripts/mafa/paper.sh table7 --seeds 1 --out output/anew --report output/anew
RESULTS = 1

NO_FILES = "none"  # the data of a run on scenes: these are made from its settings
MISSING = "missing"  # a file that the run reads is not on this machine; no row has this data
WRITTEN = ("output_dir", "token_folder", "cache_folder", "resume_ckpt_path")  # no part of a key
# in a key by their contents, wherever they lie
READ = ("images", "annotations", "judged_pairs", "vit_weights", "vocab", "pretrained", "finetuned", "path")
NO_PLACE = ("http://", "https://", "package:")

Places = tuple[tuple[str, str], ...]  # (setting, place on this machine)


class Key(NamedTuple):
    """settings: a hash of what the run and those before it are set to; data: a hash of the files that they read,
    NO_FILES or MISSING; results: RESULTS at the time."""

    settings: str
    data: str
    results: int

    def __str__(self) -> str:
        return f"{self.settings}-{self.data}-{self.results}"


def key_of(config: Any, before: Iterable[Key]) -> Key:
    """The key of a run that starts from the runs `before`. config: as written, ${…} unresolved, as a setting must not
    depend on where a machine has its data."""
    before = list(before)
    settings = {name: value for name, value in leaves(OmegaConf.to_container(config)) if not _is_place(name, value)}
    content = json.dumps([settings, *(key.settings for key in before)], sort_keys=True)
    data = [data_of(config), *(key.data for key in before)]
    if MISSING in data:
        return Key(_hash(content), MISSING, RESULTS)
    return Key(_hash(content), NO_FILES if set(data) == {NO_FILES} else _hash(json.dumps(data)), RESULTS)


def data_of(config: Any) -> str:
    """A hash of the contents of all files that the config names to be read, NO_FILES or MISSING."""
    try:
        places = _places(config)
    except OmegaConfBaseException:  # one stands on an environment variable that is not set
        return MISSING
    return _contents(places) if places else NO_FILES


def missing_files(config: Any) -> list[str]:
    """Those of these files that are not on this machine, with the setting that names them."""
    return [f"{name}: no file at {path}" for name, path in _files(_places(config)) if not path.is_file()]


def leaves(values: Any, before: str = "") -> Iterator[tuple[str, Any]]:
    """{"a": {"b": 1}, "c": {}} → ("a.b", 1), ("c", {})"""
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from leaves(value, f"{before}{name}.")
        else:
            yield f"{before}{name}", value


def _is_place(name: str, value: Any) -> bool:
    """Whether the setting says where something lies, not what it is."""
    return name.split(".")[-1] in WRITTEN or _is_read(name, value)


def _is_read(name: str, value: Any) -> bool:
    *before, last = name.split(".")
    if not (last in READ or before[-1:] == ["annotations"]) or not isinstance(value, str | list):
        return False
    return not str(value).startswith(NO_PLACE) and (last != "vocab" or "/" in value)  # else a tokenizer of the hub


def _places(config: Any) -> Places:
    read = [item for item in leaves(OmegaConf.to_container(config, resolve=True)) if _is_read(*item)]
    return tuple((name, place) for name, value in read for place in ([value] if isinstance(value, str) else value))


@cache
def _contents(places: Places) -> str:
    digest = hashlib.blake2b(digest_size=8)
    for name, path in _files(places):
        if not path.is_file():
            return MISSING
        digest.update(f"{name}\n{hashlib.blake2b(path.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()


def _files(places: Places) -> Iterator[tuple[str, Path]]:
    """All files, each under a name that does not say where it lies; of a data set's images, those it annotates."""
    for name, place in places:
        path = Path(place).expanduser()
        annotations = [file for other, file in places if other.startswith(f"{name.removesuffix('images')}annotations.")]
        if name.endswith(".images") and annotations:
            yield from ((f"{name}/{image}", path / image) for image in _images(annotations))
        elif path.is_dir():
            yield from (
                (f"{name}/{file.relative_to(path)}", file) for file in sorted(path.rglob("*")) if file.is_file()
            )
        else:
            yield name, path


def _images(annotations: list[str]) -> list[str]:
    if not all(Path(file).expanduser().is_file() for file in annotations):
        return []  # one is missing, and so is the data
    return sorted(set(read_annotations([Path(file).expanduser() for file in annotations])["image"].to_pylist()))


def _hash(content: str) -> str:
    return hashlib.blake2b(content.encode(), digest_size=8).hexdigest()
