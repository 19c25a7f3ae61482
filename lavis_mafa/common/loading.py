"""A DataLoader whose workers say what they read, so that one that hangs or is killed is an error with a name."""

from __future__ import annotations

import atexit
import multiprocessing
import os
import re
import signal
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sized
from contextlib import contextmanager
from typing import TYPE_CHECKING, Generic, TypedDict, TypeVar

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, get_worker_info
from torch.utils.data.dataloader import _BaseDataLoaderIter

from lavis_mafa.common.artifacts import is_running
from lavis_mafa.common.stopping import SIGNALS

if TYPE_CHECKING:  # typing has it from Python 3.11 on
    from typing_extensions import Unpack

TIMEOUT_S = 900  # that a batch may take: a disk that hangs, not one that is slow
KILLED = re.compile(r"DataLoader worker \(pid (\d+)\) is killed by signal: ([\w ]+)")
REASONS = {
    "Killed": "as the system does where memory runs out; lower run.num_workers or the batch size, or ask for more",
    "Bus error": "as happens where /dev/shm is full; give it more (docker: --shm-size), or lower run.num_workers",
}
T_co = TypeVar("T_co", covariant=True)
_loaders: weakref.WeakSet[WatchedLoader[object]] = weakref.WeakSet()
_workers: set[int | None] = set()  # the processes that were started


class Options(TypedDict, total=False):
    """Of DataLoader."""

    batch_size: int
    batch_sampler: Sampler[list[int]]
    pin_memory: bool
    collate_fn: Callable[..., object] | None


class WorkerError(ValueError):
    """A worker of a loader was killed, or took too long; the message names what it was reading."""


class WatchedLoader(DataLoader[T_co], Generic[T_co]):
    """A DataLoader over a map-style data set.

    Args:
        dataset: its items are asked for by number, `num_workers` at a time.
        name_of: number → what is read, for messages, as an image's path; by default the number.
        options: of DataLoader.
    """

    def __init__(
        self,
        dataset: Dataset[T_co],
        *,
        num_workers: int,
        name_of: Callable[[int], str] = "item {}".format,
        **options: Unpack[Options],
    ) -> None:
        reading = torch.full((num_workers, 2), -1).share_memory_()  # type: ignore[no-untyped-call]  # process, item
        if num_workers:
            dataset = _Reporting(dataset, reading)
        start, patience = (_Start(reading), TIMEOUT_S) if num_workers else (None, 0)
        super().__init__(dataset, num_workers=num_workers, worker_init_fn=start, timeout=patience, **options)
        self.reading, self.name_of = reading, name_of
        self._processes: list[multiprocessing.Process] = []
        _loaders.add(self)

    def __iter__(self) -> _BaseDataLoaderIter:
        batches = super().__iter__()
        batches.loader = self  # type: ignore[attr-defined]  # alive, and so in _loaders, for as long as they come
        self._processes = getattr(batches, "_workers", [])
        _workers.update(worker.pid for worker in self._processes)
        return batches

    def killed(self) -> list[tuple[int, int]]:
        """Its workers that a signal ended, with the signal."""
        ended = [(worker.pid or 0, worker.exitcode or 0) for worker in self._processes]
        return [(process, -status) for process, status in ended if status < 0]

    def read_by(self, process: int) -> str:
        """What the worker is reading, "" where it is none of this loader or reads nothing."""
        items = [item for worker, item in self.reading.tolist() if worker == process and item >= 0]
        return self.name_of(items[0]) if items else ""


@contextmanager
def worker_errors() -> Iterator[None]:
    """Torch's errors about workers, which it also raises in the middle of a step, say what the workers were reading.

    Raises:
        WorkerError: in their place.
    """
    try:
        yield
    except (RuntimeError, OSError, EOFError) as error:  # where a batch of a dead worker was under way, no RuntimeError
        try:
            message = _explained(error)
        except RuntimeError as later:  # of torch's handler of SIGCHLD, which came in between
            message = _explained(later)
        if message:
            raise WorkerError(message) from error
        raise


def _explained(error: BaseException | None) -> str:
    """What became of a worker; "" where none is the cause."""
    lost = isinstance(error, (EOFError, OSError))
    while error is not None:
        if killed := KILLED.search(str(error)):
            return _killed(int(killed[1]), killed[2].strip())
        if str(error).startswith("DataLoader timed out"):
            processes = {worker for loader in _loaders for worker, _ in loader.reading.tolist() if is_running(worker)}
            names = [name for process in sorted(processes) for name in _read_by(process)]
            read = f"; they are reading {', '.join(names)}" if names else ""
            return f"a batch took the loader's workers more than {TIMEOUT_S} s{read}: check the disk that it is on"
        lost = lost or "exited unexpectedly" in str(error)
        error = error.__cause__ or error.__context__
    for process, number in _ended() if lost else ():
        return _killed(process, signal.strsignal(number) or str(number))
    return ""


def _ended() -> list[tuple[int, int]]:
    """Workers that a signal ended; the system may say so a moment after their pipe has closed."""
    for _ in range(10):
        if found := [dead for loader in _loaders for dead in loader.killed()]:
            return found
        time.sleep(0.1)
    return []


def _killed(process: int, reason: str) -> str:
    read = "".join(f" while it read {name}" for name in _read_by(process)[:1])
    why = f", {REASONS[reason]}" if reason in REASONS else ""
    return f"a loader's worker (process {process}) was ended by the signal {reason!r}{read}{why}"


def _read_by(process: int) -> list[str]:
    return [name for loader in _loaders if (name := loader.read_by(process))]


class _Reporting(Dataset[T_co]):
    """Writes down which item this worker reads."""

    def __init__(self, dataset: Dataset[T_co], reading: Tensor) -> None:
        self.dataset, self.reading = dataset, reading

    def __len__(self) -> int:
        assert isinstance(self.dataset, Sized)
        return len(self.dataset)

    def __getitem__(self, index: int) -> T_co:
        info = get_worker_info()
        assert info is not None
        self.reading[info.id, 1] = index
        sample = self.dataset[index]
        self.reading[info.id, 1] = -1
        return sample


class _Start:
    """Of a worker: it is named, and a signal to the whole job does not end it, as its parent needs the batch."""

    def __init__(self, reading: Tensor) -> None:
        self.reading = reading

    def __call__(self, worker: int) -> None:
        self.reading[worker, 0] = os.getpid()
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)


@atexit.register
def _end_workers() -> None:
    """Workers end on request, or when they have lost their parent. One that hangs would hold up the exit, where
    Python sends daemons a SIGTERM and waits for them."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's handler raises for a worker that was killed, here by us
    for child in multiprocessing.active_children():
        if child.pid in _workers:
            child.kill()
