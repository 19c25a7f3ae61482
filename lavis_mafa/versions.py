"""Which packages stand beside this one. No LAVIS: the doctor asks where LAVIS may be missing."""

from __future__ import annotations

import hashlib
from functools import cache
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


@cache
def source_hash() -> str:
    """Hash of this package's own code: what it computed may differ once it changes."""
    digest, package = hashlib.blake2b(digest_size=12), Path(__file__).parent
    for file in sorted(package.rglob("*.py")):
        digest.update(str(file.relative_to(package)).encode())
        digest.update(file.read_bytes())
    return digest.hexdigest()
