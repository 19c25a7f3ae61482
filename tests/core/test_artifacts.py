"""Files that are whole or absent."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file, save_file

from lavis_mafa.common.artifacts import HOST, MARKER, atomic_folder, atomic_write, json_lines, mapped, reading, sweep

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


def test_a_folder_of_somebody_else_is_not_replaced(tmp_path):
    (tmp_path / "gallery").mkdir()
    for text in ("first", "second"):  # an empty folder, then one of ours
        with atomic_folder(tmp_path / "gallery") as new:
            (new / "index.html").write_text(text)
    assert (tmp_path / "gallery" / "index.html").read_text() == "second"
    (tmp_path / "gallery" / MARKER).unlink()
    refused = pytest.raises(ValueError, match="gallery was not written by this program and would be replaced")
    with refused, atomic_folder(tmp_path / "gallery"):
        pass
    assert (tmp_path / "gallery" / "index.html").read_text() == "second"
    assert [path.name for path in tmp_path.iterdir()] == ["gallery"]


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


def write_npz(path):
    np.savez(path, a=np.arange(1000))


def read_npz(path):
    with np.load(path) as file:
        return file["a"]


FORMATS = {
    "a.npz": (write_npz, read_npz),
    "a.json": (lambda path: path.write_text('{"a": "ä"}'), lambda path: json.loads(path.read_bytes())["a"]),
    "a.parquet": (lambda path: pq.write_table(pa.table({"a": range(1000)}), path), pq.read_table),
    "a.pth": (lambda path: torch.save({"a": torch.ones(9)}, path), lambda path: torch.load(path, weights_only=True)),
    "a.safetensors": (lambda path: save_file({"a": torch.ones(9)}, path), load_file),
    "a.npy": (lambda path: np.save(path, np.arange(9)), lambda path: np.load(path, mmap_mode="r")),
}


@pytest.mark.parametrize("name", FORMATS)
def test_a_torn_file_of_any_format_is_named_with_the_remedy(tmp_path, name):
    path, (write, read) = tmp_path / name, FORMATS[name]
    with pytest.raises(ValueError, match=f"{name} is missing. Copy it."), reading(path, "table", "Copy it."):
        read(path)
    write(path)
    with reading(path, "table"):
        read(path)
    whole = path.read_bytes()
    for torn in (b"", whole[:7], whole[: len(whole) // 2], whole[:-1], b"some text"):
        path.write_bytes(torn)
        named = pytest.raises(ValueError, match=rf"{name} is damaged or not a readable table \(.*\)\. Copy it\.$")
        with named, reading(path, "table", "Copy it."):
            read(path)


def test_a_bug_while_reading_is_no_torn_file(tmp_path):
    (tmp_path / "a").touch()
    with pytest.raises(NameError), reading(tmp_path / "a", "table"):
        undefined  # noqa: B018, F821


def test_an_array_is_mapped_and_can_be_written_to(tmp_path):
    np.save(tmp_path / "a.npy", np.arange(3))
    mapped(tmp_path / "a.npy", "", "r+")[1] = 7
    assert mapped(tmp_path / "a.npy", "").tolist() == [0, 7, 2]


@pytest.mark.parametrize(
    "torn", [b"", b'{"a": 3', b'{"a": 3}', b"\0" * 9, "\u00e4".encode()[:1], b"\n\n", b"[" * 100_000 + b"\n"]
)
def test_rows_of_lines_end_with_the_last_whole_one(tmp_path, torn):
    path = tmp_path / "rows.jsonl"
    assert json_lines(path) == []
    path.write_bytes('{"a": 1}\n["\u2028 one line"]\n'.encode() + torn)
    assert json_lines(path) == [{"a": 1}, ["\u2028 one line"]]


def test_a_temporary_name_that_is_a_link_is_not_written_through(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    (tmp_path / f"a.json.lavis_mafa-{HOST}-{os.getpid()}.tmp").symlink_to("mine.txt")
    with atomic_write(tmp_path / "a.json") as file:
        file.write(b"new")
    assert (tmp_path / "mine.txt").read_text() == "mine" and (tmp_path / "a.json").read_text() == "new"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "mine.txt"]
