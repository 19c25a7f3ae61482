"""What kind of value stands where in a config: text, numbers, lists or keys; checked before anything reads them.

The section `run` has its schema (run_schema.py). Tested in tests/jobs/test_config.py and tests/fuzz.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple


class Kind(NamedTuple):
    """A kind of value, in words and as a test; a ${…} is of any kind until it is resolved."""

    words: str
    holds: Callable[[object], bool]
    or_null: bool = True


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_texts(value: object) -> bool:
    return isinstance(value, str) or (isinstance(value, list) and all(map(_is_text, value)))


KEYS = Kind("keys with values ({key: value, …})", lambda value: isinstance(value, Mapping))
TEXT = Kind("text", _is_text)
TEXTS = Kind("text, or a list of texts", _is_texts)
COUNT = Kind("a whole number from 1 on", lambda value: type(value) is int and value > 0)

# a key → the kind of its value; * stands for any key
SHAPES: dict[tuple[str, ...], Kind] = {
    **{(section,): KEYS for section in ("run", "model", "datasets")},
    **{("run", name): TEXT for name in ("task", "runner")},
    **{
        ("model", name): TEXT
        for name in ("arch", "model_type", "vocab", "vit_weights", "pretrained", "finetuned", "bert")
    },
    **{("model", name): KEYS for name in ("mafa", "qformer", "text_encoder", "preprocess")},
    ("datasets", "*"): KEYS,
    **{("datasets", "*", name): KEYS for name in ("annotations", "columns")},
    **{("datasets", "*", name): KEYS._replace(or_null=False) for name in ("vis_processor", "text_processor")},
    ("datasets", "*", "images"): TEXTS,
    ("datasets", "*", "max_rows"): COUNT,
    ("datasets", "*", "annotations", "*"): TEXTS,
    ("datasets", "*", "columns", "*"): TEXT,
}


def check_shapes(config: Mapping[str, object]) -> None:
    """ValueError for the first value of another kind than its place in a config asks for, naming the key."""
    for pattern, kind in SHAPES.items():
        for key, value in _at(config, pattern):
            is_open = (value is None and kind.or_null) or (isinstance(value, str) and "${" in value)
            if not is_open and not kind.holds(value):
                raise ValueError(f"{key} is {value!r:.200}: allowed is {kind.words}{', or null' * kind.or_null}")


def _at(tree: object, pattern: tuple[str, ...], key: str = "") -> Iterator[tuple[str, object]]:
    """(its key, value) of everything in the tree that the pattern fits."""
    if not pattern:
        yield key, tree
    elif isinstance(tree, Mapping):
        for name in tree if pattern[0] == "*" else [pattern[0]] * (pattern[0] in tree):
            yield from _at(tree[name], pattern[1:], f"{key}.{name}" if key else str(name))
