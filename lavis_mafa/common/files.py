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


def mistaken(path: str | Path) -> str:
    """What stands in a file's place after a download that went wrong, with the remedy; "" for other files.

    That is a pointer of git-lfs or a web page.
    """
    with open(path, "rb") as file:
        start = file.read(512).lstrip().lower()
    if start.startswith(b"version https://git-lfs"):
        return "is a pointer of git-lfs, not the file itself: run `git lfs pull` where it comes from"
    if start.startswith((b"<!doctype html", b"<html")):
        return "is a web page (a login, a quota, a warning), not the file itself: download it again, best in a browser"
    return ""
