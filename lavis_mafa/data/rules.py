"""How far the files of a data set are trusted: keys that every data set has beside its own.

Tested in tests/data/test_rules.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

# Bringing a text to NFC takes time that grows with the square of its marks: 0.4 s for 10,000, 6 s for 40,000.
MAX_CHARACTERS = 10_000


@dataclass(frozen=True)
class FileRules:
    """What a data set's config says of its files.

    allow_symlinks: a link below the image folder may lead out of it. max_pixels: width times height of the largest
    image that is read; decoding takes up to 16 bytes a pixel. max_characters: of the longest caption or question.
    """

    allow_symlinks: bool = False
    max_pixels: int = 64_000_000
    max_characters: int = MAX_CHARACTERS

    @classmethod
    def of(cls, dataset: Mapping[str, object]) -> FileRules:
        """Of a section datasets.NAME.

        Raises:
            ValueError: a value of another type.
        """
        links = dataset.get("allow_symlinks")
        if links is not None and not isinstance(links, bool):
            raise ValueError(f"allow_symlinks is {links!r}: allowed is true or false")
        return cls(
            bool(links),
            _limit(dataset, "max_pixels", cls.max_pixels),
            _limit(dataset, "max_characters", cls.max_characters),
        )


def _limit(dataset: Mapping[str, object], name: str, default: int) -> int:
    value = default if dataset.get(name) is None else dataset[name]
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name} is {value!r}: allowed is a whole number from 1 on")
    return value


DEFAULTS = FileRules()


def encodable(text: str) -> str:
    """The text, which must be one that UTF-8 can hold: no tokenizer, table or page takes another.

    Raises:
        ValueError: half a character, which JSON escapes may spell.
    """
    if not text.isascii() and any("\ud800" <= letter <= "\udfff" for letter in text):
        raise ValueError(f"{text!r:.80} contains half a character (a lone surrogate): save it as UTF-8")
    return text


def readable(text: str, longest: int = MAX_CHARACTERS) -> str:
    """A caption or a question that is not too long to be read.

    Raises:
        ValueError: half a character, or more characters than `longest`.
    """
    if len(text) > longest:
        raise ValueError(
            f"{text!r:.40}… has {len(text):,} characters, and at most {longest:,} are read: shorten it, or raise the "
            "data set's max_characters"
        )
    return encodable(text)
