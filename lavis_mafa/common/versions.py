"""Which packages stand beside this one. No LAVIS: the doctor asks where LAVIS may be missing."""

from __future__ import annotations

import hashlib
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


def source_hash() -> str:
    """Hash of this package's own code: what it computed may differ once that changes."""
    digest, package = hashlib.blake2b(digest_size=8), Path(__file__).parent
    for path in sorted(path for path in package.rglob("*.py") if path.is_file()):
        digest.update(str(path.relative_to(package)).encode() + path.read_bytes())
    return digest.hexdigest()
