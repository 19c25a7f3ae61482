"""What a shard is called in the ids of its images: its data set and its path there, the same on every machine.

Tested in tests/openclip/test_shard_names.py.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from itertools import takewhile
from pathlib import Path

Parts = tuple[str, ...]  # folders, then the file


def local_path(url: str) -> Path | None:
    """The file of a shard on this machine; None where it is streamed from elsewhere."""
    return None if "://" in url or url.startswith("pipe:") else Path(url.removeprefix("file:"))


def shard_names(patterns: str, expand: Callable[[str], Iterable[str]]) -> dict[str, str]:
    """{URL of a shard: NAME:PATH} of what --train-data lists, patterns joined by `::`.

    The root of a pattern is the innermost folder of all its shards. PATH is what follows it; NAME is its last folder,
    with as many before it as it takes to tell the roots apart: `/data/cc3m/{0..9}.tar` has cc3m:0.tar.

    Args:
        patterns: e.g. /data/cc3m/{00000..00331}.tar::/data/cc12m/{00000..01242}.tar.
        expand: a pattern → its URLs.
    """
    groups = [{url: _parts(url) for url in expand(pattern)} for pattern in patterns.split("::")]
    roots = [_common([parts[:-1] for parts in group.values()]) for group in groups]
    names = _told_apart(set(roots))
    return {
        url: f"{names[root]}:{'/'.join(parts[len(root) :])}"
        for root, group in zip(roots, groups, strict=True)
        for url, parts in group.items()
    }


def _parts(url: str) -> Parts:
    file = local_path(url)
    return tuple(part for part in (url if file is None else os.path.abspath(file)).split("/") if part)


def _common(folders: Sequence[Parts]) -> Parts:
    """What all of them begin with."""
    alike = takewhile(lambda level: len(set(level)) == 1, zip(*folders, strict=False))
    return tuple(level[0] for level in alike)


def _told_apart(roots: Iterable[Parts]) -> dict[Parts, str]:
    """Each root's last folders, as many as it takes that no other root has the same."""
    names = {root: root[-1:] for root in roots}
    while alike := [root for root, name in names.items() if Counter(names.values())[name] > 1 and name != root]:
        names.update({root: root[-len(names[root]) - 1 :] for root in alike})
    return {root: "/".join(name) for root, name in names.items()}
