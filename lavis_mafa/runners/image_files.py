"""The image files of a run: embeddings and scores that it stored are of what the files were. A resume compares them."""

from __future__ import annotations

import logging
from datetime import datetime, timezone
from typing import TypedDict

import numpy as np

from lavis_mafa.common.hashing import digest
from lavis_mafa.data.images import content_of

KEY = "image files"  # among the changes of a resume


class ImageStamp(TypedDict):
    """What image files were: `sizes` and `times` are hashes, by record; `about` is for people."""

    folders: list[list[str]]
    sizes: str
    times: str
    about: str


def image_stamp(open_image: object) -> ImageStamp:
    """Of the files that open_image opens; their names are in the fingerprint of the records."""
    parts = list(content_of(open_image))
    folders = [part for part in parts if isinstance(part, list)]
    found_N2 = np.array([part[1] or (-1, -1) for part in parts if isinstance(part, tuple)], np.int64).reshape(-1, 2)
    size_N, time_N = np.ascontiguousarray(found_N2.T)
    hashes = digest(size_N), digest(time_N)
    newest = datetime.fromtimestamp(int(time_N.max(initial=0)) / 1e9, timezone.utc).isoformat(" ", "seconds")
    total = f"{len(size_N):,} of {size_N.clip(0).sum():,} bytes"
    about = f"{total}, the newest of {newest}, sizes {hashes[0][:6]}, times {hashes[1][:6]}"
    return ImageStamp(folders=folders, sizes=hashes[0], times=hashes[1], about=about)


def changed_images(before: ImageStamp | None, now: ImageStamp | None) -> dict[str, tuple[object, object]]:
    """{KEY: (old, new)} where files were replaced since; {} where they were not, or where nothing is stored of them.

    A copy in another folder often has times of its own: there sizes alone are compared.
    """
    if before is None or now is None:
        return {}
    moved, same_times = before["folders"] != now["folders"], before["times"] == now["times"]
    if before["sizes"] == now["sizes"] and (moved or same_times):
        if not same_times:
            logging.warning(
                "the images lie in another folder than before and have other times: only sizes are compared"
            )
        return {}
    return {KEY: (before["about"], now["about"])}
