"""A job that is asked to stop (SIGTERM, SIGINT, SIGUSR1) ends with status 75, where its state is whole.

Schedulers send these signals before they take a machine away. A training defers them to the end of a step and writes a
checkpoint; every other job stops at once, as its files are written whole and it goes on from them.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

STATUS = 75  # EX_TEMPFAIL of sysexits.h: the same command, started again, goes on
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


class Stopped(SystemExit):
    """Ends the process with STATUS."""

    def __init__(self) -> None:
        super().__init__(STATUS)


class _Asked:
    name = ""  # of the signal
    deferred = False
    watched = False


@contextmanager
def stops_on_signals() -> Iterator[None]:
    """In the block, the signals raise Stopped, or wait for the end of a `deferred_stops`.

    Outside the main thread, where Python has no signals, they do what they did before.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, _on_signal) for number in SIGNALS}
    _Asked.name, _Asked.watched = "", True
    try:
        yield
    finally:
        _Asked.watched = False
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def deferred_stops() -> Iterator[None]:
    """In the block, a signal is only noted: the block asks `stop_asked` where its state is whole, and ends itself."""
    _Asked.deferred = True
    try:
        yield
    finally:
        _Asked.deferred = False
    if _Asked.name:
        raise Stopped


def stop_asked() -> str:
    """The name of the signal that asked this process to stop; "" before one has."""
    return _Asked.name


def _on_signal(number: int, _: FrameType | None) -> None:
    _Asked.name = signal.Signals(number).name
    if not _Asked.deferred:
        raise Stopped
    # no logging here: the signal may have come in the middle of a line
    os.write(2, f"\n{_Asked.name}: the run ends after this step, with a checkpoint\n".encode())


def _in_child() -> None:
    """A forked child (a loader's worker) leaves it to its parent to stop: Ctrl-C and SLURM signal it, too."""
    if _Asked.watched:
        _Asked.watched = False
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        for number in (signal.SIGINT, signal.SIGUSR1):
            signal.signal(number, signal.SIG_IGN)


os.register_at_fork(after_in_child=_in_child)
