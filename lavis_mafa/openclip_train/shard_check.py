"""Looks into WebDataset shards before a run: open_clip leaves out, without a word, what is no pair of image and text.

Tested in tests/openclip/test_shards.py.
"""

from __future__ import annotations

import tarfile
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path

from lavis_mafa.openclip_train.shard_names import local_path

Keys = Callable[[str], tuple[str | None, str | None]]  # a file's name → key of its sample, suffix

SHARDS, FILES = 16, 1000  # that are looked at, and of each
WANTED = "one of .png, .jpg, .jpeg, .webp beside a .txt of the same name; a name ends at its first dot"


def check_shards(urls: Sequence[str], keys: Keys, is_pair: Callable[[set[str]], bool]) -> None:
    """Refuses local shards of which none of the first holds a pair.

    keys: webdataset's base_plus_ext. is_pair: suffixes of a sample → whether open_clip trains on it.

    Raises:
        ValueError: a shard that is not there or no tar file; shards without a pair, with what they hold.
    """
    local = [path for path in map(local_path, urls) if path is not None]
    if missing := [path for path in local if not path.is_file()]:
        raise ValueError(f"no shard {missing[0]} ({len(missing)} of {len(urls)} are missing): check the pattern")
    found: list[str] = []
    for path in local[:SHARDS]:
        samples = _samples(path, keys)
        if any(is_pair(suffixes) for suffixes in samples.values()):
            return
        found += [f"{path} holds {_shown(samples)}"]
    if found:
        raise ValueError(f"no pair of image and text in {len(found)} shards: {found[0]}; looked for was {WANTED}")


def _samples(path: Path, keys: Keys) -> dict[str, set[str]]:
    samples: dict[str, set[str]] = {}
    try:
        with tarfile.open(path) as tar:
            for member in islice(tar, FILES):
                key, suffix = keys(member.name)
                if member.isfile() and key is not None and suffix is not None:
                    samples.setdefault(key, set()).add(suffix.lower())
    except (tarfile.TarError, OSError, EOFError) as error:
        raise ValueError(f"shard {path} cannot be read ({error}): copy it again or leave it out") from error
    return samples


def _shown(samples: dict[str, set[str]]) -> str:
    first = [
        f"{key!r} with {', '.join(f'.{suffix}' for suffix in sorted(samples[key])[:5])}" for key in list(samples)[:3]
    ]
    return "; ".join(first) or "no file with a suffix"
