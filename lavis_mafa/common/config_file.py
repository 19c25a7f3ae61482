"""Reading a run's YAML with its options, and OmegaConf's errors told so that a user can act on them."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

SECTIONS = ("run", "model", "datasets")
DATA_HOLDS = " (the folder that holds the data sets: flickr8k, text, weights, …)"


def read_config_file(path: Path, options: Sequence[str]) -> Any:
    """What the user wrote: the YAML with the options (key=value) merged into it, nothing resolved yet.

    ValueError: no such file, no YAML, no section of a run in it, an option that is not key=value.
    """
    if not path.is_file():
        raise ValueError(f"--cfg-path: no file at {path}; the runs are in projects/mafa")
    for option in options:
        if "=" not in option:
            raise ValueError(f"--options takes key=value, e.g. run.max_epoch=2; got {option!r}")
    try:
        given = OmegaConf.load(path)
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        raise ValueError(f"--cfg-path: {path} is not YAML: {error}") from error
    if not OmegaConf.is_dict(given) or not any(section in given for section in SECTIONS):
        raise ValueError(f"--cfg-path: {path} is no config of a run: it needs the keys {', '.join(SECTIONS)}")
    with omegaconf_told("--options"):
        chosen = OmegaConf.from_dotlist(list(options))
        arch = OmegaConf.select(chosen, "run.con_d.arch")
        if arch and arch != OmegaConf.select(given, "run.con_d.arch"):
            OmegaConf.update(given, "run.con_d", None)  # its other keys are those of another network
        return OmegaConf.merge(given, chosen)


def plain_config(cfg: Any) -> dict[str, Any]:
    """A section of a config, or a mapping, as a dict of its own with every ${…} resolved."""
    return OmegaConf.to_container(cfg, resolve=True) if OmegaConf.is_config(cfg) else dict(cfg)


@contextmanager
def omegaconf_told(source: object) -> Iterator[None]:
    """OmegaConf's errors become a ValueError that names the key and, for an unset environment variable, the remedy."""
    try:
        yield
    except (OmegaConfBaseException, yaml.YAMLError) as error:
        unset = re.search(r"Environment variable '(\w+)' not found", str(error))
        key = getattr(error, "full_key", None) or "a key"
        if unset is None:
            raise ValueError(f"{source}: {key} cannot be read: {str(error).splitlines()[0]}") from error
        name, holds = unset[1], DATA_HOLDS if unset[1] == "LAVIS_MAFA_DATA" else ""
        told = f"{source}: {key} stands on the environment variable {name}, which is not set{holds}"
        raise ValueError(f"{told}: export {name}=/path/to/it") from error
