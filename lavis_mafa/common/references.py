"""What `${…}` in a config may name: another key of it, or one of this program's own environment variables.

A config of somebody else could otherwise read any variable, `${oc.env:HF_TOKEN}`, and send it away in a URL or leave it
in results. Tested in tests/jobs/test_references.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

VARIABLES = ("LAVIS_MAFA_DATA", "LAVIS_MAFA_CACHE")
INNERMOST = re.compile(r"\$\{([^${}]*)\}")
KEY = re.compile(r"[\w.\[\]]+")
SEEN = "\0"  # stands for a reference that is allowed, inside another one


def check_references(config: object, source: object) -> None:
    """Refuses every other `${…}` in the texts of a config (plain values, nothing resolved yet).

    Raises:
        ValueError: naming source, key and text.
    """
    for key, text in _texts(config):
        if "${" in text and not _is_allowed(text):
            raise ValueError(
                f"{source}: {key} is {text!r}: ${{…}} may name another key, as ${{run.seed}}, or "
                f"{' or '.join(f'${{oc.env:{name}}}' for name in VARIABLES)}, no other environment variable and no "
                "other function: write the value itself"
            )


def _texts(value: object, key: str = "") -> Iterator[tuple[str, str]]:
    """(key, text) of every text in it."""
    if isinstance(value, str):
        yield key, value
    elif isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _texts(inner, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from _texts(inner, f"{key}[{number}]")


def _is_allowed(text: str) -> bool:
    """References are taken out from the inside, until none is left or one is found that is not allowed."""
    while inner := INNERMOST.search(text):
        if not _names_what_it_may(inner[1]):
            return False
        text = text[: inner.start()] + SEEN + text[inner.end() :]
    return "${" not in text


def _names_what_it_may(reference: str) -> bool:
    function, colon, arguments = reference.partition(":")
    if not colon:
        return KEY.fullmatch(reference) is not None
    return function == "oc.env" and arguments.partition(",")[0] in VARIABLES
