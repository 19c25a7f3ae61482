"""What a key of a dataclass schema says beside its type and default: its meaning, and the numbers that it allows."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from types import NoneType
from typing import TYPE_CHECKING, TypeVar, cast, get_args, get_origin, get_type_hints

T = TypeVar("T")
if TYPE_CHECKING:
    Section = dict[str, object]
else:
    Section = dict  # the type of keys that a schema leaves open; OmegaConf knows no `object`


@dataclass(frozen=True)
class Range:
    """The numbers that a key allows; none of them is infinite."""

    least: float = -math.inf
    most: float = math.inf
    open: bool = False  # without its ends

    def __contains__(self, value: float) -> bool:
        if self.open:
            return self.least < value < self.most
        return self.least <= value <= self.most and math.isfinite(value)

    def __str__(self) -> str:
        if self.most == math.inf:
            return f"from {self.least:g} on"
        return f"between {self.least:g} and {self.most:g}" if self.open else f"in [{self.least:g}, {self.most:g}]"


FROM_0, FROM_1 = Range(0), Range(1)


def key(default: T, meaning: str, allowed: Range | None = None) -> T:
    """A key of the schema: its default, what it means, and the numbers that it allows."""
    metadata = {"meaning": meaning, "allowed": allowed}
    if isinstance(default, list):
        return cast(T, field(default_factory=default.copy, metadata=metadata))
    return field(default=default, metadata=metadata)


NAMES: dict[object, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    list: "a list of texts",
    dict: "keys with values ({key: value, …})",
}


def text_keys(schema: type) -> list[str]:
    """The keys that take text, as it stands."""
    return [name for name, hint in get_type_hints(schema).items() if _kinds(hint) == [str]]


def allowed_values(schema: type, name: str) -> str:
    """What a key takes, for people: `a whole number from 1 on, or null`."""
    hint = get_type_hints(schema)[name]
    limits = next(one.metadata["allowed"] for one in fields(schema) if one.name == name)
    kinds = _kinds(hint)
    choices = [kind if isinstance(kind, str) else NAMES[kind] for kind in kinds]
    text = f"{', '.join(choices[:-1])} or {choices[-1]}" if len(choices) > 1 else choices[0]
    text = f"{text} {limits}" if limits is not None and str(limits) != str(Range()) else text
    return f"{text}, or null" if NoneType in get_args(hint) else text


def _kinds(hint: object) -> list[object]:
    """The types of a hint, or its literals, less None: [int] of `int | None`, [dict] of `Section | None`."""
    if get_origin(hint) in (list, dict):
        return [get_origin(hint)]
    return [kind for one in get_args(hint) if one is not NoneType for kind in _kinds(one)] or [hint]
