"""Which packages stand beside this one. No LAVIS: the doctor asks where LAVIS may be missing."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

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
