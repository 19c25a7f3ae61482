"""CPU threads of a process: how many, and how they wait. Tested in tests/core/test_threads.py.

Results depend on the number of threads (sums are split among them), so that it follows from what the process may use,
never from the load, and a resumed run keeps it.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
OWN_CGROUP = Path("/proc/self/cgroup")


def wait_passively() -> None:
    """OpenMP's threads sleep while they wait for each other. By default they spin, which is quicker on an idle machine
    and many times slower on a busy one. Called before torch is imported; a value that the user set stays."""
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")


def usable_cpus() -> int:
    """Cores that this process may use: by its affinity, and by the quota of its cgroups (a container's)."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, int(min([cores, *_quotas()])))


def _quotas() -> Iterator[float]:
    """Cores that each cgroup of this process, and each above it, is limited to."""
    lines = OWN_CGROUP.read_text().splitlines() if OWN_CGROUP.exists() else []
    for controllers, path in (line.split(":", 2)[1:] for line in lines):
        if controllers and "cpu" not in controllers.split(","):
            continue
        root = CGROUPS / controllers if controllers else CGROUPS  # version 1 has a folder for the controller
        own = root / path.strip("/")
        for folder in (own, *own.parents):
            if folder.is_relative_to(root):
                yield from _quota(folder)


def _quota(folder: Path) -> Iterator[float]:
    try:
        if (file := folder / "cpu.max").exists():
            quota, period = file.read_text().split()
        else:
            quota, period = ((folder / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        if quota != "max" and float(quota) > 0:
            yield float(quota) / float(period)
    except (OSError, ValueError):
        return


def take_threads() -> None:
    """Let torch use as many threads as there are usable cores; OMP_NUM_THREADS, the user's or torchrun's, stands."""
    import torch

    if "OMP_NUM_THREADS" not in os.environ and torch.get_num_threads() != usable_cpus():
        torch.set_num_threads(usable_cpus())


def keep_threads(count: int | None) -> None:
    """Go on with the number of threads that a run began with; None: its checkpoint does not say."""
    import torch

    now = torch.get_num_threads()
    if count is not None and count != now:
        logging.info("%d threads, as the run began with, not %d: results depend on their number", count, now)
        torch.set_num_threads(count)


if __name__ == "__main__":
    print(usable_cpus())
