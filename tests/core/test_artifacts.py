"""Files that are whole or absent."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from lavis_mafa.common.artifacts import HOST, atomic_folder, atomic_write, save_rows, sweep

KILLED = """
import os, signal, sys
from pathlib import Path
from lavis_mafa.common.artifacts import atomic_folder, atomic_write
if sys.argv[2] == "folder":
    with atomic_folder(Path(sys.argv[1], "gallery")) as new:
        (new / "index.html").write_text("half")
        os.kill(os.getpid(), signal.SIGKILL)
with atomic_write(Path(sys.argv[1], "summary.json")) as file:
    file.write(b"half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("what", ["file", "folder"])
def test_what_a_killed_process_left_is_swept_away(tmp_path, what):
    with atomic_folder(tmp_path / "gallery") as new:
        (new / "index.html").write_text("whole")
    with atomic_write(tmp_path / "summary.json") as file:
        file.write(b"whole")
    kept = {path.name for path in tmp_path.iterdir()}
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    assert subprocess.run([sys.executable, "-c", KILLED, tmp_path, what], env=environment).returncode == -9
    assert len(list(tmp_path.iterdir())) == 3
    sweep(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == kept
    assert (tmp_path / "gallery" / "index.html").read_text() == (tmp_path / "summary.json").read_text() == "whole"


def test_a_folder_killed_between_its_two_renames_returns(tmp_path):
    for part in ("new", "old"):
        (tmp_path / f"gallery.lavis_mafa-{HOST}-999999999.{part}").mkdir()
        (tmp_path / f"gallery.lavis_mafa-{HOST}-999999999.{part}" / "index.html").write_text(part)
    sweep(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["gallery"]
    assert (tmp_path / "gallery" / "index.html").read_text() == "old"


def test_files_of_running_processes_and_of_others_stay(tmp_path):
    others = {"notes.tmp", "run.new.1700000", "a.999999999.tmp", "a.lavis_mafa-elsewhere-999999999.tmp"}
    names = {f"a.json.lavis_mafa-{HOST}-{os.getppid()}.tmp", f"a.lavis_mafa-{HOST}-{10**20}.tmp", *others}
    for name in names:
        (tmp_path / name).touch()
    sweep(tmp_path)
    sweep(tmp_path / "none")
    assert {path.name for path in tmp_path.iterdir()} == names


def test_rows_come_part_by_part(tmp_path):
    rows = np.arange(14, dtype=np.float32).reshape(7, 2)
    save_rows(tmp_path / "new" / "rows.npy", 7, iter(np.split(rows, [3, 6])), "")
    found = np.load(tmp_path / "new" / "rows.npy", mmap_mode="r")
    assert found.dtype == np.float16 and (found == rows).all()


@pytest.mark.parametrize("last", [1e6, np.nan])
def test_what_float16_cannot_hold_is_told_and_leaves_nothing(tmp_path, last):
    parts = iter([np.zeros((2, 1), np.float32), np.full((1, 1), last, np.float32)])
    with pytest.raises(ValueError, match=r"rows 2 to 3 of rows\.npy leave float16's range; say less"):
        save_rows(tmp_path / "rows.npy", 3, parts, "say less")
    assert not list(tmp_path.iterdir())


def test_too_few_rows_are_no_file(tmp_path):
    with pytest.raises(AssertionError, match="2 rows came for 3"):
        save_rows(tmp_path / "rows.npy", 3, iter([np.zeros((2, 1), np.float32)]), "")
    assert not list(tmp_path.iterdir())
