"""Caches are named by content, noted when they are used, listed and pruned; nothing of anybody else is touched."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

from lavis_mafa.cache import main
from lavis_mafa.common.cache import JOB, cache_path, entries, note_use
from lavis_mafa.common.cached_rows import cached_rows
from lavis_mafa.common.folders import held
from lavis_mafa.common.hashing import digest_of
from lavis_mafa.data.images import ImageFiles, content_of
from lavis_mafa.data.mixed import MixedImages


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A cache of three entries, one of them unused for 40 days, and files of somebody else."""
    folder = tmp_path / "output" / "run" / "tokens"
    for name in ("new", "old"):
        cached_rows(folder, "tokens", [name], 2, lambda: [torch.ones(2, 3)], "", f"the {name} one")
    scores = note_use(cache_path(folder, "scores", ["s"], suffix=""), "scores of it")
    scores.mkdir()
    (scores / "part_0_r0_0.npy").write_bytes(b"x" * 100)
    (folder / "tokens_mine.npy").write_text("somebody's")
    (tmp_path / "output" / f"tokens_{digest_of(['new'])}.npy").write_text("in a folder that is no cache")
    long_ago = time.time() - 40 * 24 * 60 * 60
    os.utime(folder / f".tokens_{digest_of(['old'])}.json", (long_ago, long_ago))
    return tmp_path / "output"


def test_entries_are_listed_with_size_and_use(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = {entry.about: entry for entry in entries([folder])}
    assert set(found) == {"the new one", "the old one", "scores of it"}
    assert found["scores of it"].size == 100 and found["scores of it"].kind == "scores"
    assert found["the old one"].idle_days == pytest.approx(40, abs=0.1)
    assert main(["--folder", str(folder)]) == 0
    printed = capsys.readouterr().out
    assert "the old one" in printed and "3 entries, 380 B" in printed


def test_only_what_is_unused_is_pruned(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(path for path in folder.rglob("*"))
    main(["prune", "--folder", str(folder), "--dry-run"])
    assert sorted(folder.rglob("*")) == before and "1 entries" in capsys.readouterr().out
    main(["prune", "--folder", str(folder)])
    name = f"tokens_{digest_of(['old'])}"
    gone = {folder / "run" / "tokens" / place for place in (f"{name}.npy", f".{name}.json")}
    assert set(before) - set(folder.rglob("*")) == gone
    main(["prune", "--folder", str(folder), "--unused-days", "0"])
    left = {path.name for path in folder.rglob("*") if path.is_file()}
    assert left == {".lavis_mafa", "tokens_mine.npy", f"tokens_{digest_of(['new'])}.npy"}


def test_a_use_counts(folder: Path) -> None:
    cached_rows(folder / "run" / "tokens", "tokens", ["old"], 2, list, "")
    assert max(entry.idle_days for entry in entries([folder])) < 1


def test_a_cache_that_is_written_to_is_left_alone(folder: Path, tmp_path: Path) -> None:
    reader, writer = os.pipe()
    if (child := os.fork()) == 0:
        with held(folder / "run" / "tokens", JOB, "cache"):
            os.write(writer, b"x")
            time.sleep(60)
        os._exit(0)
    try:
        os.read(reader, 1)
        with pytest.raises(SystemExit, match="in use by process"):
            main(["prune", "--folder", str(folder), "--unused-days", "0"])
        assert len(list(entries([folder]))) == 3
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)


def test_a_wrong_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="there is no folder"):
        main(["--folder", str(tmp_path / "none")])


def test_images_are_named_by_folder_name_size_and_time(tmp_path: Path) -> None:
    for root in ("one", "two"):
        (tmp_path / root).mkdir()
        Image.new("RGB", (4, 4)).save(tmp_path / root / "a.png")
        os.utime(tmp_path / root / "a.png", ns=(10**18, 10**18))
    images = pa.array(["a.png", "gone.png"])

    def named(root: str = "one", paths: pa.Array = images) -> str:
        return digest_of(content_of(ImageFiles(str(tmp_path / root), paths)))

    first = named()
    assert named() == first and len({first, named("two"), named(paths=images[:1])}) == 3
    os.utime(tmp_path / "one" / "a.png", ns=(10**18, 10**18 + 1))
    later = named()
    Image.new("RGB", (90, 50)).save(tmp_path / "one" / "a.png")
    os.utime(tmp_path / "one" / "a.png", ns=(10**18, 10**18 + 1))
    assert len({first, later, named()}) == 3
    parts = [ImageFiles(str(tmp_path / root), images) for root in ("one", "two")]
    mixed = digest_of(content_of(MixedImages((parts[0], parts[1]), (0, 2))))
    assert mixed != digest_of(content_of(MixedImages((parts[1], parts[0]), (0, 2))))
    assert list(content_of(lambda record: np.zeros(3))) == []
