"""Whose a folder is, and that one process at a time writes there."""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lavis_mafa.common import mounts
from lavis_mafa.common.artifacts import HOST
from lavis_mafa.common.folders import MARKER, NO_LOCKS, held, job_of

# Holds the folder, forks a child that outlives it, as a loader's worker may, and waits to be killed.
HOLDING = """
import os, sys, time
from pathlib import Path
from lavis_mafa.common.folders import held
with held(Path(sys.argv[1]), "train", "run.output_dir"):
    if child := os.fork():
        print(child, flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", HOLDING, tmp_path / "run"], stdout=subprocess.PIPE, text=True)
    child = int(process.stdout.readline())
    yield process
    process.kill()
    os.kill(child, signal.SIGKILL)
    process.communicate()


def test_a_second_process_is_refused_at_once_and_a_dead_one_does_not_block(tmp_path, holder):
    folder, began = tmp_path / "run", time.monotonic()
    named = rf"run.output_dir: .*run is in use by process {holder.pid} on {HOST} \(train, since 20.*\); wait"
    with pytest.raises(ValueError, match=named), held(folder, "train", "run.output_dir"):
        pass
    assert time.monotonic() - began < 5
    holder.kill()
    holder.wait()
    with held(folder, "train", "run.output_dir"):
        assert json.loads((folder / MARKER).read_text())["process"] == os.getpid()


def test_a_process_may_hold_a_folder_twice_and_lets_it_go_at_the_end(tmp_path):
    with held(tmp_path, "mine", "run.output_dir"), held(tmp_path, "cache", "run.cache_folder"):
        pass
    assert job_of(tmp_path) == "mine"
    with open(tmp_path / MARKER) as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_files_of_somebody_else_are_refused_and_stay(tmp_path):
    (tmp_path / "suspects.csv").write_text("mine")
    (tmp_path / "notes.txt").write_text("mine")
    refused = pytest.raises(ValueError, match=r"contains suspects.csv, which this program did not write")
    with refused, held(tmp_path, "mine", "run.output_dir", ["suspects.*", "gallery"]):
        pass
    assert job_of(tmp_path) is None and sorted(os.listdir(tmp_path)) == ["notes.txt", "suspects.csv"]
    with held(tmp_path, "mine", "run.output_dir", ["gallery"]):
        (tmp_path / "gallery").mkdir()
    with held(tmp_path, "mine", "run.output_dir", ["gallery"]):  # the marker says whose it is
        pass
    refused = pytest.raises(ValueError, match="contains the results of `mine`; choose another folder for `train`")
    with refused, held(tmp_path, "train", "run.output_dir"):
        pass


@pytest.mark.parametrize("text", ["", "[]", "[" * 100_000, "9" * 5000])
def test_a_marker_that_a_crash_emptied_is_still_ours(tmp_path, text):
    (tmp_path / MARKER).write_text(text)
    (tmp_path / "gallery").mkdir()
    with held(tmp_path, "mine", "run.output_dir", ["gallery"]):
        assert job_of(tmp_path) == "mine"


@pytest.mark.parametrize("name", [MARKER, "steps.jsonl", "connections/part_0.npy", "new.jsonl"])
def test_a_link_to_a_file_elsewhere_is_never_written_through(tmp_path, name):
    """A folder of somebody else: its links would lead to the user's own files."""
    folder, outside = tmp_path / "run", tmp_path / "bashrc"
    (folder / name).parent.mkdir(parents=True)
    outside.write_text("mine")
    (folder / name).symlink_to("../" * (1 + name.count("/")) + ("gone" if name == "new.jsonl" else "bashrc"))
    refused = pytest.raises(ValueError, match=rf"run\.output_dir: .*{name} is a link to a file outside")
    with refused, held(folder, "train", "run.output_dir"):
        pass
    assert outside.read_text() == "mine" and not (tmp_path / "gone").exists()


def test_a_marker_that_is_a_link_is_never_written_through(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / MARKER).symlink_to("notes.txt")
    with pytest.raises(ValueError, match="cannot be written to"), held(tmp_path, "train", "run.output_dir"):
        pass
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_links_to_folders_and_within_the_folder_stay(tmp_path):
    folder, scratch = tmp_path / "run", tmp_path / "scratch"
    folder.mkdir(), scratch.mkdir()
    (scratch / "link").symlink_to(tmp_path / "gone")
    (folder / "embeddings").symlink_to(scratch)
    (folder / "checkpoint.pth").touch()
    (folder / "best.pth").symlink_to("checkpoint.pth")
    with held(folder, "train", "run.output_dir"):
        assert job_of(folder) == "train"


def refuse_to_lock(monkeypatch, number):
    def fails(descriptor, how):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", fails)


@pytest.mark.parametrize("number", NO_LOCKS)
def test_a_file_system_without_locks_is_named(tmp_path, monkeypatch, caplog, number):
    refuse_to_lock(monkeypatch, number)
    with caplog.at_level(logging.WARNING), held(Path(tmp_path), "train", "run.output_dir"):
        assert job_of(tmp_path) == "train"
    (record,) = caplog.records
    assert f"run.output_dir: the file system of {tmp_path} has no locks ({os.strerror(number)})" in record.getMessage()


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.ENOTCONN])
def test_a_lock_that_fails_in_another_way_is_an_error(tmp_path, monkeypatch, number):
    refuse_to_lock(monkeypatch, number)
    refused = pytest.raises(ValueError, match=rf"run\.output_dir: {tmp_path} cannot be locked")
    with refused, held(tmp_path, "train", "run.output_dir"):
        pass


MOUNTED = """22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw,nolock
23 22 0:50 / {folder}/a\\040b rw,relatime shared:2 - nfs4 host:/x rw,vers=4.2,local_lock=none,addr=10.0.0.1
24 22 0:51 / {folder}/local rw shared:3 - nfs host:/y rw,vers=3,nolock,local_lock=all,addr=10.0.0.1
25 22 0:52 / {folder}/lustre rw - lustre mgs:/z rw,flock
26 25 0:53 / {folder}/lustre/far rw - lustre mgs:/z rw,localflock
27 24 0:54 / {folder}/local/disk rw - ext4 /dev/sdb1 rw
28 22 0:55 / {folder}/twice rw - nfs4 host:/x rw,local_lock=flock
29 28 0:56 / {folder}/twice rw - nfs4 host:/x rw,local_lock=posix
"""


@pytest.mark.parametrize(
    ("place", "option"),
    [
        ("elsewhere", ""),
        ("a b/run", ""),
        ("local/run", "local_lock=all, nolock"),
        ("localised", ""),
        ("lustre/run", ""),
        ("lustre/far/run", "localflock"),
        ("local/disk/run", ""),
        ("twice/run", ""),
    ],
)
def test_a_lock_that_other_machines_do_not_see_is_named(tmp_path, monkeypatch, caplog, place, option):
    monkeypatch.setattr(mounts, "MOUNTS", tmp_path / "mountinfo")
    mounts.MOUNTS.write_text(MOUNTED.format(folder=tmp_path.resolve()))
    with caplog.at_level(logging.WARNING), held(tmp_path / place, "train", "run.output_dir"):
        pass
    assert f"is mounted with {option}, so a process of another machine" in caplog.text if option else not caplog.text


def test_where_the_system_lists_no_mounts_nothing_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(mounts, "MOUNTS", tmp_path / "gone")
    assert mounts.local_lock_option(tmp_path) == ""
