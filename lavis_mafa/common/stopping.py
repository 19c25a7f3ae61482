"""A job that is asked to stop (SIGTERM, SIGINT, SIGUSR1) ends with status 75, where its state is whole.

Schedulers send these signals before they take a machine away. A training defers them to the end of a step and writes a
checkpoint; every other job stops at once, as its files are written whole and it goes on from them.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

STATUS = 75  # EX_TEMPFAIL of sysexits.h: the same command, started again, goes on
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
GRACE_S = 5.0  # after which a signal that Python could not handle yet ends the process; torchrun kills after 30
_END = b"\0"


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

    Python handles a signal between two of its own steps. A rank that waits for the others in torch takes none, so that
    a thread ends the process after GRACE_S. Outside the main thread, where Python has no signals, they do what they did
    before.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, _on_signal) for number in SIGNALS}
    _Asked.name, _Asked.watched = "", True
    try:
        with _ends_where_python_waits():
            yield
    finally:
        _Asked.watched = False
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _ends_where_python_waits() -> Iterator[None]:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    watcher = threading.Thread(target=_watch, args=(reader,), daemon=True)
    before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)  # gets the number of a signal at once
    watcher.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        os.write(writer, _END)
        watcher.join()
        os.close(reader)
        os.close(writer)


def _watch(reader: int) -> None:
    while (number := os.read(reader, 1)) != _END:
        if number[0] not in SIGNALS:
            continue
        last = time.monotonic() + GRACE_S
        while not _Asked.name and time.monotonic() < last:
            time.sleep(0.05)
        if not (_Asked.name or _Asked.deferred):
            os.write(2, f"\n{signal.Signals(number[0]).name}: the process ends where it waits\n".encode())
            os._exit(STATUS)


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
        signal.set_wakeup_fd(-1)  # the parent's
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        for number in (signal.SIGINT, signal.SIGUSR1):
            signal.signal(number, signal.SIG_IGN)


os.register_at_fork(after_in_child=_in_child)
