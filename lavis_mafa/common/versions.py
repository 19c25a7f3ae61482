"""Which packages stand beside this one. No LAVIS: the doctor asks where LAVIS may be missing."""

from __future__ import annotations

import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = (
    *("lavis_mafa", "salesforce-lavis", "torch", "torchvision", "transformers", "timm", "open_clip_torch", "numpy"),
    *("pandas", "pyarrow", "faiss-cpu", "faiss-gpu", "faiss-gpu-cu11", "faiss-gpu-cu12", "ray"),
)


def installed_versions() -> dict[str, str]:
    """The version of every package of PACKAGES that is installed."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def versions() -> dict[str, str]:
    """What a run stood on: Python, the machine, its GPU, and packages."""
    import torch  # the doctor runs without it

    found = {"python": platform.python_version(), "machine": f"{platform.machine()}, {torch.get_num_threads()} threads"}
    if torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name()
    return found | installed_versions()


def commit() -> str | None:
    """The checkout's commit, None for an installed package."""
    git = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        return subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
