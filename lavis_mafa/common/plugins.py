"""Modules outside this package that register judges, towers, targets and LAVIS' builders (`run.plugins`)."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence


def load_plugins(names: object, where: str = "run.plugins", folder: str | None = None) -> None:
    """Import the modules `names`, each once; what they register counts from then on.

    names: module names. folder: where modules are looked for after all installed ones; default: the current folder.
    Raises ValueError, naming `where` and the module: no list of names, or a module that cannot be imported.
    """
    if not isinstance(names, Sequence) or isinstance(names, str) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"{where} is {names!r}: give a list of module names, e.g. [my_judge]")
    folder = folder or os.getcwd()
    if names and folder not in sys.path:
        sys.path.append(folder)
    for name in names:
        try:
            importlib.import_module(name)
        except Exception as error:
            raise ValueError(
                f"{where}: module {name!r} cannot be imported ({type(error).__name__}: {error}); it must be installed, "
                f"or lie in {folder}"
            ) from error
