"""How many threads a process takes, and that they wait without spinning."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lavis_mafa.common import threads


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """16 cores; the cgroups are files below the returned folder."""
    monkeypatch.setattr(threads, "CGROUPS", tmp_path / "fs")
    monkeypatch.setattr(threads, "OWN_CGROUP", tmp_path / "own")
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(16)), raising=False)
    return tmp_path


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.mark.parametrize(
    ("own", "files", "cores"),
    [
        ("0::/\n", {}, 16),
        ("0::/\n", {"cpu.max": "max 100000\n"}, 16),
        ("0::/\n", {"cpu.max": "400000 100000\n"}, 4),
        ("0::/job/step\n", {"job/step/cpu.max": "max 100000\n", "job/cpu.max": "350000 100000\n"}, 3),
        ("0::/job\n", {"job/cpu.max": "50000 100000\n"}, 1),
        ("0::/elsewhere\n", {"cpu.max": "3200000 100000"}, 16),
        (
            "9:memory:/m\n4:cpu,cpuacct:/pod\n",
            {"cpu,cpuacct/pod/cpu.cfs_quota_us": "200000\n", "cpu,cpuacct/pod/cpu.cfs_period_us": "100000\n"},
            2,
        ),
        ("4:cpu:/\n0::/\n", {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 16),
        ("0::/\n", {"cpu.max": "rubbish\n"}, 16),
    ],
)
def test_a_container_s_share_counts(own: str, files: dict[str, str], cores: int, machine: Path) -> None:
    write(machine / "own", own)
    for name, text in files.items():
        write(machine / "fs" / name, text)
    assert threads.usable_cpus() == cores


def test_torch_takes_them_unless_the_user_says_how_many(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(machine / "own", "0::/\n")
    write(machine / "fs" / "cpu.max", "300000 100000\n")
    taken: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", taken.append)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    threads.take_threads()
    monkeypatch.delenv("OMP_NUM_THREADS")
    threads.take_threads()
    assert taken == [3]


def test_a_resumed_run_keeps_its_number(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    taken: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", taken.append)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    with caplog.at_level(logging.INFO):
        for before in (None, 2, 7):
            threads.keep_threads(before)
    assert taken == [7] and "7 threads, as the run began with, not 2" in caplog.text


@pytest.mark.parametrize("command", ["train", "mine", "calibrate", "cli"])
def test_commands_choose_how_to_wait_before_torch_is_there(command: str) -> None:
    """Its OpenMP reads the policy when it is loaded."""
    code = (
        "import importlib, sys; from lavis_mafa.common import threads\n"
        "threads.wait_passively = lambda: sys.exit('late' if 'torch' in sys.modules else 'in time')\n"
        "sys.argv[1:] = ['openclip-train']\n"  # of the console command
        f"importlib.import_module('lavis_mafa.{command}').main()\n"
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True)
    assert done.stderr.strip() == "in time"


def test_a_policy_of_the_user_s_own_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_WAIT_POLICY", "active")
    threads.wait_passively()
    assert os.environ["OMP_WAIT_POLICY"] == "active"
    monkeypatch.delenv("OMP_WAIT_POLICY")
    threads.wait_passively()
    assert os.environ["OMP_WAIT_POLICY"] == "passive"
