"""`lavis-mafa COMMAND …`: every command under one name, from any folder."""

from __future__ import annotations

import difflib
import importlib
import sys
from collections.abc import Sequence
from typing import NamedTuple

from lavis_mafa import __version__
from lavis_mafa.common.errors import one_line_errors
from lavis_mafa.common.threads import wait_passively


class Command(NamedTuple):
    """`main()` of a module, which reads sys.argv; `words` come before the user's."""

    module: str
    help: str
    words: tuple[str, ...] = ()


COMMANDS = {
    "train": Command("lavis_mafa.train", "train a model, then evaluate it"),
    "evaluate": Command("lavis_mafa.evaluate", "evaluate a checkpoint"),
    "mine": Command("lavis_mafa.mine", "find the missing connections of a data set"),
    "calibrate": Command("lavis_mafa.calibrate", "make a judge's scores probabilities, on labelled pairs"),
    "check": Command("lavis_mafa.data.__main__", "read a whole data set, and list what is broken", ("check",)),
    "compare": Command("lavis_mafa.compare", "compare finished runs, paired by seed"),
    "answers": Command("lavis_mafa.evaluation.compare", "one table of several evaluations of answers and captions"),
    "convert": Command("lavis_mafa.convert", "convert checkpoints to and from transformers"),
    "openclip-train": Command("lavis_mafa.openclip.train", "open_clip's training with MAFA"),
    "cache": Command("lavis_mafa.cache", "list or prune caches of embeddings, tokens and scores"),
    "configs": Command("lavis_mafa.common.run_configs", "list the configs of runs that --cfg-path may name"),
    "doctor": Command("lavis_mafa.doctor", "check whether this machine can run lavis_mafa"),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command that the first word names."""
    name, *words = (sys.argv[1:] if arguments is None else arguments) or ["--help"]
    if name in ("-h", "--help"):
        print(_usage())
    elif name == "--version":
        print(f"lavis_mafa {__version__}")
    elif name in COMMANDS:
        command = COMMANDS[name]
        wait_passively()
        sys.argv = [f"lavis-mafa {name}", *command.words, *words]
        with one_line_errors():
            sys.exit(importlib.import_module(command.module).main())
    else:
        near = difflib.get_close_matches(name, COMMANDS, n=1, cutoff=0.0)[0]
        sys.exit(f"error: there is no command {name!r}; did you mean {near}?\n{_usage()}")


def _usage() -> str:
    lines = [f"  {name:<16}{command.help}" for name, command in COMMANDS.items()]
    return "\n".join(["usage: lavis-mafa COMMAND …    (COMMAND --help describes one)", "", *lines])


if __name__ == "__main__":
    main()
