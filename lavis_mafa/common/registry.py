"""Names that a config may use, and what they stand for; a plugin adds its own. Tested in tests/jobs/test_plugins.py."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


class Registry(dict[str, T]):
    """Name → what is registered under it.

    kind: what the names are names of, for errors: "judge", "tower".
    """

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def add(self, *names: str) -> Callable[[T], T]:
        """Register what follows, or what is given, under these names; usable as a decorator.

        Raises ValueError: a name that stands for something already.
        """

        def register(item: T) -> T:
            for name in names:
                if name in self:
                    raise ValueError(f"there is a {self.kind} {name!r} already: choose another name")
                self[name] = item
            return item

        return register

    def find(self, name: object, where: str) -> T:
        """What is registered under `name`, which the config gives at `where`.

        Raises ValueError: an unknown name; the closest valid one and all others are named.
        """
        if isinstance(name, str) and name in self:
            return self[name]
        near = difflib.get_close_matches(str(name), self, n=1, cutoff=0.0)[0]
        raise ValueError(
            f"{where}: there is no {self.kind} {name!r}; did you mean {near}? Allowed are {', '.join(sorted(self))}"
        )
