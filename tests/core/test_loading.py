"""Workers of a loader that hang, are killed, or are signalled from outside."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest
from torch.utils.data import Dataset

from lavis_mafa.common import loading
from lavis_mafa.common.loading import WatchedLoader, WorkerError, worker_errors


class Files(Dataset):
    """Item 5 does what `fault` does."""

    def __init__(self, fault):
        self.fault = fault

    def __len__(self):
        return 8

    def __getitem__(self, item):
        if item == 5:
            self.fault()
        return item


def loader(fault, **options):
    return WatchedLoader(Files(fault), num_workers=2, name_of="file {}.jpg".format, batch_size=2, **options)


def kill_me():
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_worker_that_is_killed_is_named_with_what_it_read():
    named = r"worker \(process \d+\) was ended by the signal 'Killed' while it read file 5\.jpg, as .* memory runs out"
    with pytest.raises(WorkerError, match=named), worker_errors():
        list(loader(kill_me))


def test_a_worker_that_torch_reports_while_its_death_is_looked_into_is_named(monkeypatch):
    """Its pipe closes first; torch's handler of SIGCHLD raises wherever the main thread is then."""

    def ended():
        raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. ")

    monkeypatch.setattr(loading, "_ended", ended)
    with pytest.raises(WorkerError, match=r"worker \(process 7\) was ended by the signal 'Killed'"), worker_errors():
        raise ConnectionResetError
    monkeypatch.setattr(loading, "_ended", list)
    with pytest.raises(ConnectionResetError), worker_errors():
        raise ConnectionResetError


def test_workers_that_hang_are_named_with_what_they_read(monkeypatch):
    monkeypatch.setattr(loading, "TIMEOUT_S", 1)
    named = r"a batch took the loader's workers more than 1 s; they are reading file 5\.jpg: check the disk"
    with pytest.raises(WorkerError, match=named), worker_errors():
        list(loader(lambda: time.sleep(4)))


def signal_me():
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
        os.kill(os.getpid(), number)
    time.sleep(0.2)


def test_a_signal_to_the_whole_job_leaves_the_workers_to_their_parent():
    assert [int(item) for batch in loader(signal_me) for item in batch] == list(range(8))


def test_other_errors_stay_what_they_are():
    def fails():
        raise KeyError("no such column")

    with pytest.raises(KeyError, match="no such column"), worker_errors():
        list(loader(fails))
    assert [int(item) for batch in WatchedLoader(Files(print), num_workers=0) for item in batch] == list(range(8))


LEFT_ALONE = """
import atexit, time
atexit.register(time.sleep, 1)  # runs last: the worker's death is noticed while the interpreter ends
from lavis_mafa.common.loading import WatchedLoader
batches = iter(WatchedLoader(list(range(100)), num_workers=1, batch_size=1))
next(batches)
"""


def test_a_program_that_ends_with_workers_alive_ends_quietly() -> None:
    done = subprocess.run([sys.executable, "-c", LEFT_ALONE], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
