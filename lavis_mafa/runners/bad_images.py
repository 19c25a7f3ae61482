"""What `on_bad_image: replace` replaced, named in a file: nothing vanishes in silence."""

from __future__ import annotations

import logging
from pathlib import Path

from lavis_mafa.common.artifacts import atomic_write
from lavis_mafa.common.stdout import printable
from lavis_mafa.data.dataset import PairDataset


def name_bad_images(dataset: PairDataset, folder: Path, rank: int) -> int:
    """Add the paths of images that this rank could not read to bad_images_rank{rank}.txt; returns how many it holds."""
    path = folder / f"bad_images_rank{rank}.txt"
    before = set(path.read_text(encoding="utf-8").splitlines()) if path.exists() else set()
    found = before | {printable(dataset.table.image(record), kept="") for record in dataset.bad_records}
    if found > before:
        with atomic_write(path) as file:
            file.write("".join(f"{image}\n" for image in sorted(found)).encode())
        logging.warning("%d images could not be read and were replaced; %s lists them", len(found), path)
    return len(found)
