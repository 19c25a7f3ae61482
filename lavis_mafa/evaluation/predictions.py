"""Predictions on disk as they are made, so that a run that dies goes on from there and no question is asked twice."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import cast

from lavis_mafa.common.artifacts import check_header, json_lines, sync
from lavis_mafa.common.disk import full_disk_named


class Predictions:
    """What one rank predicted of a split: {split}_rank{r}.jsonl, a header, then a line an item.

    `about`: what the predictions depend on (weights, data, prompt, beams). `done`: {item: prediction} of all ranks.
    Raises ValueError where the folder holds predictions about something else.
    """

    def __init__(self, folder: Path, split: str, rank: int, about: Mapping[str, object]) -> None:
        self.about = json.loads(json.dumps(about))
        self.path = folder / f"{split}_rank{rank}.jsonl"
        self.done = merged(folder, split, self.about)
        _cut_torn_line(self.path)

    def append(self, predicted: Mapping[int, str]) -> None:
        """Write the predictions of a batch."""
        is_new = not self.path.exists()
        with full_disk_named(self.path), open(self.path, "a", encoding="utf-8") as file:
            if is_new:
                file.write(json.dumps(self.about) + "\n")
            file.writelines(json.dumps([item, text], ensure_ascii=False) + "\n" for item, text in predicted.items())
            sync(file)
        self.done.update(predicted)


def merged(folder: Path, split: str, about: Mapping[str, object]) -> dict[int, str]:
    """All ranks' predictions, every item once; the line that a killed run tore is left out."""
    found: dict[int, str] = {}
    for path in sorted(folder.glob(f"{split}_rank*.jsonl")):
        rows = json_lines(path)
        if rows:
            header, answers = cast(Mapping[str, object], rows[0]), cast(list[tuple[int, str]], rows[1:])
            every = {**dict.fromkeys(header), **about}  # a key that this run lacks differs too
            check_header(path, header, every, "Remove it, or choose another run.output_dir.")
            found.update((int(item), str(text)) for item, text in answers)
    return found


def _cut_torn_line(path: Path) -> None:
    whole = path.read_bytes().rfind(b"\n") + 1 if path.exists() else 0
    if whole:
        os.truncate(path, whole)
    else:
        path.unlink(missing_ok=True)
