"""SIGTERM, SIGINT and SIGUSR1: at once with status 75, or where a block's state is whole."""

from __future__ import annotations

import os
import signal
import threading
import time
from datetime import timedelta

import pytest
from torch.distributed import DistStoreError, TCPStore

from lavis_mafa.common import stopping
from lavis_mafa.common.stopping import SIGNALS, STATUS, Stopped, deferred_stops, stop_asked, stops_on_signals


def ask(number):
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_job_stops_at_once_or_at_the_end_of_what_it_defers(number, capfd):
    before = [signal.getsignal(each) for each in SIGNALS]
    with pytest.raises(Stopped) as stopped, stops_on_signals():
        ask(number)
        pytest.fail("it went on")
    assert stopped.value.code == STATUS == 75
    done = []
    with pytest.raises(Stopped), stops_on_signals(), deferred_stops():
        assert stop_asked() == ""
        ask(number)
        done.append(stop_asked())
    assert done == [number.name] and f"{number.name}: the run ends" in capfd.readouterr().err
    assert [signal.getsignal(each) for each in SIGNALS] == before


def test_a_forked_child_is_not_asked():
    with stops_on_signals():
        child = os.fork()
        if child == 0:
            ask(signal.SIGUSR1)
            ask(signal.SIGINT)
            os._exit(3)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 3
        assert stop_asked() == ""


def wait_in_torch() -> None:
    """As a rank that waits for another one: Python handles no signal here."""
    TCPStore("127.0.0.1", 0, world_size=2, is_master=True, timeout=timedelta(seconds=1))


def status_of_a_signalled(job):
    child = os.fork()
    if child == 0:
        status = 1
        try:
            job()
        except SystemExit as end:
            status = end.code
        finally:
            os._exit(status)
    time.sleep(0.5)
    os.kill(child, signal.SIGTERM)
    began = time.monotonic()
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), time.monotonic() - began


def test_a_process_that_waits_outside_python_is_ended(monkeypatch, capfd):
    monkeypatch.setattr(stopping, "GRACE_S", 0.2)

    def job():
        with stops_on_signals():
            wait_in_torch()

    status, seconds = status_of_a_signalled(job)
    assert status == STATUS and seconds < 1
    assert "SIGTERM: the process ends where it waits" in capfd.readouterr().err


def test_what_is_deferred_is_not_ended_where_it_waits(monkeypatch):
    monkeypatch.setattr(stopping, "GRACE_S", 0.2)

    def job():
        with stops_on_signals(), deferred_stops():
            with pytest.raises(DistStoreError):
                wait_in_torch()
            if stop_asked() != "SIGTERM":
                os._exit(4)

    status, seconds = status_of_a_signalled(job)
    assert status == STATUS and seconds > 0.4


def test_outside_the_main_thread_signals_are_left_alone():
    done = []

    def job():
        with stops_on_signals():
            done.append(True)

    thread = threading.Thread(target=job)
    thread.start()
    thread.join()
    assert done == [True]
