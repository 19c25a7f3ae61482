"""Reading a run's YAML with its options, and OmegaConf's errors as messages that a user can act on."""

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lavis_mafa.common.references import check_references
from lavis_mafa.common.run_configs import run_config
from lavis_mafa.common.run_schema import MineRun, TrainRun
from lavis_mafa.common.schema import text_keys
from lavis_mafa.common.shapes import check_shapes

SECTIONS = ("run", "model", "datasets")
DATA_HOLDS = " (the folder that holds the data sets: flickr8k, text, weights, …)"
TEXT_KEYS = {f"run.{name}" for schema in (TrainRun, MineRun) for name in text_keys(schema)}


def read_config_file(path: Path, options: Sequence[str]) -> DictConfig:
    """What the user wrote: the YAML with the options (key=value) merged into it, nothing resolved yet.

    Raises:
        ValueError: no such file (run_configs.py), no YAML, no section of a run in it, an option that is not key=value,
            a ${…} that names more than it may (references.py).
    """
    source, path = path, run_config(path)
    for option in options:
        if "=" not in option:
            raise ValueError(f"--options takes key=value, e.g. run.max_epoch=2; got {option!r}")
    given = _read(path)
    if not isinstance(given, DictConfig) or not any(section in given for section in SECTIONS):
        raise ValueError(f"--cfg-path: {path} is not a config of a run: it needs the keys {', '.join(SECTIONS)}")
    with named_config_errors("--options"):
        chosen = OmegaConf.create()
        for option in options:
            key, _, text = option.partition("=")
            OmegaConf.update(chosen, key, option_value(key, text))
        con_d = OmegaConf.select(chosen, "run.con_d")
        arch = con_d.get("arch") if OmegaConf.is_dict(con_d) else None
        if arch and arch != OmegaConf.select(given, "run.con_d.arch"):
            OmegaConf.update(given, "run.con_d", None)  # its other keys are those of another network
        try:
            both = merged(given, chosen)
        except ValueError as error:
            raise ValueError(f"--options: {error}") from error
    plain = OmegaConf.to_container(both)
    check_references(plain, source)
    check_shapes(cast(Mapping[str, object], plain))
    return both


def _read(path: Path) -> object:
    with named_config_errors(path):
        try:
            return OmegaConf.load(path)
        except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
            raise ValueError(f"--cfg-path: {path} is not YAML: {error}") from error
        except RecursionError as error:
            raise ValueError(f"--cfg-path: {path} is not YAML: its lists and keys nest too deeply") from error


def merged(*parts: DictConfig | Mapping[str, object]) -> DictConfig:
    """The later part wins. Raises ValueError: it has a list where the earlier one has keys, or keys for a list."""
    try:
        found = OmegaConf.merge(*parts)
    except TypeError as error:  # of OmegaConf
        raise ValueError(f"a list where the YAML has keys, or keys where it has a list: {error}") from error
    assert isinstance(found, DictConfig), "of mappings one is made"
    return found


def loaded(path: str | Path) -> DictConfig:
    """A packaged YAML."""
    found = OmegaConf.load(path)
    assert isinstance(found, DictConfig), f"{path} holds keys"
    return found


def plain_config(cfg: Mapping[str, object] | DictConfig) -> Mapping[str, object]:
    """A section of a config with every ${…} resolved; another mapping is taken as it is."""
    plain = OmegaConf.to_container(cfg, resolve=True) if OmegaConf.is_config(cfg) else cfg
    return cast(Mapping[str, object], plain)


def option_value(key: str, text: str) -> object:
    """The value of an option. YAML where it is a number, true, false, null, quoted, a [list] or {keys: values}; else
    the text as it stands, with what YAML would take for a key or a comment (`a: b`, `run #1`).

    A key of the schema that takes text takes any text but null, also `2024` and `[a]`.

    Raises:
        yaml.YAMLError: a list, keys or quotes that do not end.
    """
    takes_text = key in TEXT_KEYS
    if text[:1] in ('"', "'") or (text[:1] in ("[", "{") and not takes_text):
        return _yaml(text)
    if text == "null" or (text in ("", "~") and not takes_text):
        return None
    try:
        value = text if takes_text or " #" in text else _yaml(text)
    except (yaml.YAMLError, OmegaConfBaseException):
        return text
    return value if isinstance(value, (bool, int, float)) else text


def _yaml(text: str) -> object:
    """As OmegaConf reads YAML: 1e-4 is a number, a date is text."""
    return OmegaConf.from_dotlist([f"value={text}"]).value


def changed_texts(config: Mapping[str, object], change: Callable[[str], str]) -> DictConfig:
    """A config of these plain values with every text in it, at any depth, changed."""

    def changed(value: object) -> object:
        if isinstance(value, Mapping):
            return {key: changed(inner) for key, inner in value.items()}
        if isinstance(value, list):
            return [changed(inner) for inner in value]
        return change(value) if isinstance(value, str) else value

    return OmegaConf.create({key: changed(value) for key, value in config.items()})


def home_expanded(config: DictConfig) -> DictConfig:
    """The config with `~/…` of every path in it, whatever its key, below the home folder; ${…} stays unresolved."""
    return with_texts(config, os.path.expanduser)


def with_texts(config: DictConfig, change: Callable[[str], str]) -> DictConfig:
    """The config with every text changed as it stands; ${…} stays unresolved."""
    return changed_texts(cast(Mapping[str, object], OmegaConf.to_container(config)), change)


@contextmanager
def named_config_errors(source: object) -> Iterator[None]:
    """OmegaConf's errors become a ValueError that names the key and, for an unset environment variable, the remedy."""
    try:
        yield
    except (OmegaConfBaseException, yaml.YAMLError) as error:
        unset = re.search(r"Environment variable '(\w+)' not found", str(error))
        key = getattr(error, "full_key", None) or "a key"
        if unset is None:
            raise ValueError(f"{source}: {key} cannot be read: {str(error).splitlines()[0]}") from error
        name, holds = unset[1], DATA_HOLDS if unset[1] == "LAVIS_MAFA_DATA" else ""
        problem = f"{source}: {key} needs the environment variable {name}, which is not set{holds}"
        raise ValueError(f"{problem}: export {name}=/path/to/it") from error
