"""Which packages stand beside this one. No LAVIS: the doctor asks where LAVIS may be missing."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
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


def source_hash(suffixes: Collection[str] = (".py",), without: Collection[str] = ()) -> str:
    """Hash of this package's own files, less these folders: what it computed may differ once they change."""
    digest, package = hashlib.blake2b(digest_size=8), Path(__file__).parent
    for path in sorted(path for path in package.rglob("*") if path.suffix in suffixes and path.is_file()):
        name = path.relative_to(package)
        if name.parts[0] not in without:
            digest.update(str(name).encode() + path.read_bytes())
    return digest.hexdigest()
