"""How the file system of a folder is mounted. Tested in tests/core/test_folders.py."""

from __future__ import annotations

from pathlib import Path

MOUNTS = Path("/proc/self/mountinfo")  # proc_pid_mountinfo(5)
# By which a lock is one of this machine alone, although the folder is everybody's: nfs(5), mount.lustre(8).
LOCAL_LOCKS = {"nolock", "local_lock=flock", "local_lock=all", "localflock"}


def local_lock_option(folder: Path) -> str:
    """The mount option that keeps locks on a shared folder from other machines, "" where there is none.

    folder: resolved.
    """
    try:
        lines = MOUNTS.read_text("utf-8", "surrogateescape").splitlines()
    except OSError:  # no Linux
        return ""
    mounts = [
        (_unescaped(left.split()[4]), right.split()) for left, _, right in (line.partition(" - ") for line in lines)
    ]
    above = [(len(place), number) for number, (place, _) in enumerate(mounts) if folder.is_relative_to(place)]
    if not above:
        return ""
    file_system, *_, options = mounts[max(above)[1]][1]  # of two at one place the later one
    shared = file_system.startswith("nfs") or file_system == "lustre"
    return ", ".join(sorted(LOCAL_LOCKS & {*options.split(",")})) if shared else ""


def _unescaped(place: str) -> str:
    for code, letter in ((r"\040", " "), (r"\011", "\t"), (r"\012", "\n"), (r"\134", "\\")):
        place = place.replace(code, letter)
    return place
