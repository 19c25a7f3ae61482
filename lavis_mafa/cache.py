"""`lavis-mafa cache`: what caches of embeddings, neighbours, tokens and scores hold, and taking it away.

Tested in tests/core/test_cache.py.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from lavis_mafa.common.cache import Entry, entries, remove
from lavis_mafa.common.errors import one_line_errors
from lavis_mafa.common.stdout import print_anything, printable, show


def main(arguments: list[str] | None = None) -> int:
    """List the entries, or with `prune` remove those of no recent use. Returns 0."""
    print_anything()
    parser = argparse.ArgumentParser(
        prog="lavis-mafa cache",
        description="List the caches below some folders, or prune them. What is pruned is computed anew when needed.",
    )
    parser.add_argument("action", choices=("list", "prune"), nargs="?", default="list")
    parser.add_argument("--folder", nargs="+", type=Path, default=[Path("output")], help="looked through (output)")
    parser.add_argument(
        "--unused-days", type=float, default=30, help="prune: what was not used for this many days (30)"
    )
    parser.add_argument("--dry-run", action="store_true", help="prune: only list what would be removed")
    given = parser.parse_args(arguments)
    with one_line_errors():
        return _run(given)


def _run(given: argparse.Namespace) -> int:
    for folder in given.folder:
        if not folder.is_dir():
            raise ValueError(f"--folder: there is no folder {folder}; name the ones that runs were written to")
    found = list(entries(given.folder))
    if given.action == "prune":
        found = [entry for entry in found if entry.idle_days >= given.unused_days]
        if not given.dry_run:
            remove(found)
    show(_table(found))
    return 0


def _table(found: list[Entry]) -> str:
    rows = [f"{_size(one.size):>9}  {one.idle_days:6.0f}  {one.path}  {printable(one.about)}".rstrip() for one in found]
    total = f"{len(found)} entries, {_size(sum(entry.size for entry in found))}"
    return "\n".join([f"{'size':>9}  {'unused':>6}  (days)", *rows, total])


def _size(size: float) -> str:
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"


if __name__ == "__main__":
    sys.exit(main())
