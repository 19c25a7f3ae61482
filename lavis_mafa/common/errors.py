"""A command that cannot do what it was asked says why in one line. Tested in tests/core/test_errors.py."""

from __future__ import annotations

import errno
import logging
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from lavis_mafa.common.stdout import printable

OF_A_PATH = (errno.ENAMETOOLONG, errno.ELOOP, errno.EACCES, errno.ENOTDIR, errno.EROFS)  # that a user gave


@contextmanager
def one_line_errors() -> Iterator[None]:
    """The block of a command, imports included: `error: …` and exit code 1 for what a user can put right.

    That is a ValueError, a path that cannot be used, or a package that is not installed. The traceback goes to the
    log, at level DEBUG.
    """
    try:
        yield
    except (ValueError, ModuleNotFoundError, OSError) as error:
        if isinstance(error, ModuleNotFoundError) and (error.name or "").startswith("lavis_mafa"):
            raise  # a fault of ours
        if isinstance(error, OSError) and error.errno not in OF_A_PATH:
            raise
        logging.getLogger().debug("", exc_info=True)
        rank = f"rank {os.environ['RANK']}: " if "RANK" in os.environ else ""
        sys.exit(f"error: {rank}{printable(message(error))}")


def message(error: Exception) -> str:
    """What the error says; of one that a loader's worker raised, without the worker's traceback in front."""
    text = str(error)
    if isinstance(error, OSError) and error.filename is not None:
        text = f"{error.filename}: {error.strerror}"
    if text.startswith("Caught ") and "\nTraceback (" in text:  # torch/_utils.py, ExceptionWrapper
        text = re.split(rf"\n(?:\w+\.)*{type(error).__name__}: ", text)[-1].strip()
    if isinstance(error, ModuleNotFoundError) and text.startswith("No module named"):
        text = f"{text}; `python -m lavis_mafa.doctor` says what is missing in {sys.prefix}"
    return text
