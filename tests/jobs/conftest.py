"""Before a test of jobs imports LAVIS; and a process that starts trainings without importing it anew."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import lavis_mafa.compat  # noqa: F401

import pytest

from tests.jobs.commands import ROOT, environment

StartLife = Callable[..., int]


@pytest.fixture(scope="session")
def start_life() -> Iterator[StartLife]:
    """start_life(config, options, log, kill=None) → exit status of `lavis_mafa.train`; see fault_server.py."""
    command = [sys.executable, "-W", "ignore", "-m", "tests.jobs.fault_server"]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, cwd=ROOT, env=environment(), text=True, **pipes) as server:

        def one(config: str | Path, options: Sequence[str], log: str | Path, kill: Any = None) -> int:
            order = {"config": str(config), "options": [*options], "log": str(log), "kill": kill}
            server.stdin.write(json.dumps(order) + "\n")
            server.stdin.flush()
            return int(server.stdout.readline())

        yield one
        server.stdin.close()
