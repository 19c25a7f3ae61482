"""Fingerprints: the same content has the same one on every machine and in every process.

The ids of images and captions are another matter: they are published (data/identity.py).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np

BYTES = 12  # 24 hex digits: among 10^9 fingerprints the chance of any collision is 1e-11


def digest(*parts: object) -> str:
    """Hex hash of the parts in their order.

    Args:
        parts: bytes, strings, arrays (with dtype and shape), or values that their repr describes in full.

    Example:
        >>> digest("ab", "c") != digest("a", "bc")
        True
    """
    return digest_of(parts)


def digest_of(parts: Iterable[object]) -> str:
    """`digest` of parts that come one at a time, as those of what memory does not hold."""
    hashed = hashlib.blake2b(digest_size=BYTES)
    for part in parts:
        kind, content = _framed(part)
        hashed.update(f"{kind} {len(content)}\0".encode())
        hashed.update(content)
    return hashed.hexdigest()


def file_sha256(path: Path) -> str:
    """As `sha256sum` prints it."""
    hashed = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            hashed.update(block)
    return hashed.hexdigest()


def _framed(part: object) -> tuple[str, bytes]:
    if isinstance(part, bytes):
        return "bytes", part
    if isinstance(part, str):
        return "str", part.encode("utf-8", "surrogatepass")
    if isinstance(part, np.ndarray):
        assert not part.dtype.hasobject, "an array of objects holds addresses"
        return f"{part.dtype.str}{part.shape}", part.tobytes()
    return type(part).__name__, repr(part).encode("utf-8", "surrogatepass")
