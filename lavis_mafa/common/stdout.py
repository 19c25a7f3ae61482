"""What the commands print, in whatever encoding the terminal or the log has. Tested in tests/jobs/test_stdout.py."""

import sys


def print_anything() -> None:
    """Makes stdout print what its encoding lacks as an escape, as stderr does: a finished command must not end in 1."""
    if reconfigure := getattr(sys.stdout, "reconfigure", None):
        reconfigure(errors="backslashreplace")
