"""What a figure was measured on."""

from __future__ import annotations

import os
import platform
import resource
from pathlib import Path
from typing import Any


def hardware() -> dict[str, Any]:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    cpu = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "unknown")
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    usage = resource.getrusage(resource.RUSAGE_SELF)
    seconds = {"user_s": usage.ru_utime, "system_s": usage.ru_stime, "niceness": os.nice(0)}
    return {"cpu": cpu, "cores": os.cpu_count(), "memory_gib": total, "system": platform.platform(), **seconds}
