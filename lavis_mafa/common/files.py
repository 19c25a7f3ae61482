"""Files that the package ships, and local files that a config names."""

from __future__ import annotations

from pathlib import Path

PACKAGE = Path(__file__).resolve().parent.parent
CONFIGS = PACKAGE / "configs"


def local_file(path: str) -> Path:
    """A path as given, or `package:PATH`, a small file that the package ships.

    Raises:
        ValueError: there is no such file.
    """
    found = PACKAGE / path[len("package:") :] if path.startswith("package:") else Path(path).expanduser()
    if not found.is_file():
        raise ValueError(f"no file at {found}; give the path of a local file (.safetensors or .pth for weights)")
    return found
