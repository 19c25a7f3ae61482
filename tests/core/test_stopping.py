"""SIGTERM, SIGINT and SIGUSR1: at once with status 75, or where a block's state is whole."""

from __future__ import annotations

import os
import signal
import threading

import pytest

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


def test_outside_the_main_thread_signals_are_left_alone():
    done = []

    def job():
        with stops_on_signals():
            done.append(True)

    thread = threading.Thread(target=job)
    thread.start()
    thread.join()
    assert done == [True]
