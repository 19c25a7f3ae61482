"""NVIDIA's GPUs of this machine, by its driver: no torch, which the doctor and the run scripts ask about.

`python -m lavis_mafa.common.gpus` prints how many CUDA will see. Tested in tests/jobs/test_gpus.py.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping


def listed() -> list[str]:
    """A line for every GPU that the driver lists, whatever CUDA_VISIBLE_DEVICES says; empty without a driver."""
    return [line for line in _nvidia_smi("-L").splitlines() if line.startswith("GPU ")]


def driver_cuda() -> str | None:
    """The newest CUDA that the driver runs, such as 12.4; None where it does not say."""
    found = re.search(r"CUDA (?:UMD )?Version:\s*(\d+\.\d+)", _nvidia_smi())
    return found[1] if found else None


def _nvidia_smi(*arguments: str) -> str:
    try:
        done = subprocess.run(["nvidia-smi", *arguments], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""


def visible(gpus: int, environment: Mapping[str, str] = os.environ) -> int:
    """How many of the machine's GPUs CUDA shows: of CUDA_VISIBLE_DEVICES it reads what stands before the first entry
    that names none."""
    if "CUDA_VISIBLE_DEVICES" not in environment:
        return gpus
    count = 0
    for entry in map(str.strip, environment["CUDA_VISIBLE_DEVICES"].split(",")):
        if not (entry.startswith(("GPU-", "MIG-")) or (entry.isdigit() and int(entry) < gpus)):
            break
        count += 1
    return count if gpus else 0


def unused(torch_version: str, torch_cuda: str | None) -> tuple[str, str] | None:
    """Why a torch that sees no GPU leaves those of the machine idle, and what to do; None where it leaves none.

    torch_cuda: torch.version.cuda, what it is built for.
    """
    gpus = listed()
    if not visible(len(gpus)):
        return None
    driver = driver_cuda()
    found = f"nvidia-smi lists {len(gpus)} GPU{'s' if len(gpus) > 1 else ''}, but torch {torch_version} sees none"
    hide = "set run.device: cpu, or CUDA_VISIBLE_DEVICES to nothing, to run on the CPU"
    wheel = f"a torch wheel for CUDA {driver.partition('.')[0]}.x" if driver else "a torch wheel for the driver's CUDA"
    if torch_cuda is None:
        return f"{found}: it is built without CUDA", f"install {wheel}; or {hide}"
    if driver is not None and int(torch_cuda.partition(".")[0]) > int(driver.partition(".")[0]):
        cause = f"{found}: it is built for CUDA {torch_cuda}, the driver runs CUDA up to {driver}"
        return cause, f"install {wheel}, or a newer driver; or {hide}"
    return f"{found} (built for CUDA {torch_cuda})", f"run python -m lavis_mafa.doctor; or {hide}"


if __name__ == "__main__":
    print(visible(len(listed())))
