"""What makes two captions, or two images, the same one: 63-bit ids that are stable across files and runs.

An id depends on nothing but its string, so every rank, every run and every file gives the same id to the same thing.
At 10^7 strings the chance of any collision is 5e-6; `check_collisions` looks for one at load.
"""

import hashlib
import posixpath
import unicodedata
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray


def normalised(caption: str) -> str:
    """The caption in NFC, lower case, with single spaces: captions that differ in less are the same text."""
    # Lower case may leave NFC (a dotted capital I does), so the form is restored after it.
    lower = unicodedata.normalize("NFC", caption).lower()
    return " ".join(unicodedata.normalize("NFC", lower).split())


def text_id(caption: str) -> int:
    """63-bit, non-negative id of a caption, raw or as a model's text processor leaves it."""
    return _hash63(normalised(caption), b"text_id")


def image_id(dataset: str, key: str | float) -> int:
    """63-bit, non-negative id of an image of a data set; `key` is its annotated id or, without one, its relative path.

    The number 7 and the string "7" are the same key; so are "./a.jpg" and "a.jpg" once `clean_path` has seen them.
    """
    return _hash63(f"{dataset}\0{key_string(key)}", b"image_id")


def key_string(key: object) -> str:
    """An annotated id as a string: 7, 7.0 and "7" are one. ValueError for anything that is no number or string."""
    if isinstance(key, float) and key.is_integer():
        return str(int(key))
    if isinstance(key, bool) or not isinstance(key, (str, int)):
        raise ValueError(f"an image id must be a whole number or a string, not {key!r}")
    return str(key)


def clean_path(path: str) -> str:
    """A relative image path in one spelling: "./a//b.jpg" is "a/b.jpg"."""
    return posixpath.normpath(path)


def check_collisions(ids: NDArray[np.int64], string_at: Callable[[int], str]) -> None:
    """ValueError if two different strings have one id. `string_at(i)` is the hashed string of ids[i]; it is called
    for repeated ids alone, so that millions of strings need not lie in memory."""
    order = np.argsort(ids, kind="stable")
    for at in np.flatnonzero(np.diff(ids[order]) == 0):
        one, other = string_at(int(order[at])), string_at(int(order[at + 1]))
        if one != other:
            raise ValueError(f"{one!r} and {other!r} share the id {ids[order[at]]}: change or remove one of them")


def _hash63(string: str, kind: bytes) -> int:
    digest = hashlib.blake2b(string.encode(), digest_size=8, person=kind).digest()
    return int.from_bytes(digest, "big") >> 1
