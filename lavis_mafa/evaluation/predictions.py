"""Predictions on disk as they are made, so that a run that dies goes on from there and no question is asked twice."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class Predictions:
    """What one rank predicted of a split: {split}_rank{r}.jsonl, a header, then a line an item.

    `about`: what the predictions depend on (weights, data, prompt, beams). `done`: {item: prediction} of all ranks.
    Raises ValueError where the folder holds predictions about something else.
    """

    def __init__(self, folder: Path, split: str, rank: int, about: Mapping[str, Any]) -> None:
        self.about = json.loads(json.dumps(about))
        self.path = folder / f"{split}_rank{rank}.jsonl"
        self.done = merged(folder, split, self.about)
        _cut_torn_line(self.path)

    def append(self, said: Mapping[int, str]) -> None:
        """Write the predictions of a batch."""
        is_new = not self.path.exists()
        with open(self.path, "a", encoding="utf-8") as file:
            if is_new:
                file.write(json.dumps(self.about) + "\n")
            file.writelines(json.dumps([item, text], ensure_ascii=False) + "\n" for item, text in said.items())
        self.done.update(said)


def merged(folder: Path, split: str, about: Mapping[str, Any]) -> dict[int, str]:
    """All ranks' predictions, every item once; the line that a killed run tore is left out."""
    found: dict[int, str] = {}
    for path in sorted(folder.glob(f"{split}_rank*.jsonl")):
        header, *lines = [_parsed(line) for line in path.read_text(encoding="utf-8").rstrip("\n").split("\n")]
        if header is None:
            continue
        if header != about:
            differing = sorted(key for key in {**header, **about} if header.get(key) != about.get(key))
            raise ValueError(
                f"{path} holds predictions of another run (they differ in {', '.join(differing)}); "
                "remove them, or choose another run.output_dir"
            )
        found.update((int(line[0]), str(line[1])) for line in lines if line is not None)
    return found


def _cut_torn_line(path: Path) -> None:
    if not path.exists():
        return
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if whole != content:
        path.write_bytes(whole)
    if not whole:
        path.unlink()


def _parsed(line: str) -> Any:
    try:
        return json.loads(line)
    except ValueError:
        return None
