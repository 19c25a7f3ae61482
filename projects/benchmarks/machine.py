"""What a figure was measured on, and the memory of this process."""

from __future__ import annotations

import os
import platform
import resource
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from lavis_mafa.common.versions import installed_versions


def about() -> dict[str, Any]:
    """What stands beside a result: the command, from the project's folder, the code, and what it ran on."""
    command = shlex.join(["python", *sys.argv])
    versions = {"python": platform.python_version(), **installed_versions()}
    threads = torch.get_num_threads()
    return {"command": command, "commit": commit(), "threads": threads, "hardware": hardware(), "versions": versions}


def commit() -> str:
    """The checked-out commit, `+` where files were changed since; empty without git."""
    git = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty=+", "--abbrev=12", "--exclude=*"]
    done = subprocess.run(git, capture_output=True, text=True)
    return done.stdout.strip()


def hardware() -> dict[str, Any]:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    cpu = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "unknown")
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    usage = resource.getrusage(resource.RUSAGE_SELF)
    seconds = {"user_s": usage.ru_utime, "system_s": usage.ru_stime, "niceness": os.nice(0)}
    return {"cpu": cpu, "cores": os.cpu_count(), "memory_gib": total, "system": platform.platform(), **seconds}


def restart_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")  # man 5 proc: the peak of the resident set starts anew


def memory() -> dict[str, float]:
    """Resident set now, its part that is no mapped file (which the kernel takes back at need), and the peak, in MB."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    names = {"rss_mb": "VmRSS", "anonymous_mb": "RssAnon", "peak_mb": "VmHWM"}
    return {name: int(lines[field].split()[0]) / 1024 for name, field in names.items()}
