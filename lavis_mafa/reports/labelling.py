"""A page on which people label the pairs of review.csv, in the gallery's style. No network, no server.

The browser keeps the labels, and the page downloads review.csv with them, for mining/review.py to read. Tested in
tests/reports/test_labelling.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from lavis_mafa.common.hashing import digest
from lavis_mafa.reports.gallery import GalleryRow, OpenImage, write_page

LABEL = "label"


def write_labelling(
    folder: str | Path, review: Path, rows: Sequence[GalleryRow], open_image: OpenImage, title: str
) -> Path:
    """Writes the folder anew and returns its index.html; pairs of one image share a card.

    Args:
        folder: where the page goes.
        review: the CSV to label; what a browser kept of an equal file is shown again.
        rows: the pairs, one for each line of `review` after its header, in its order.
        open_image: record → image.
        title: of the page.
    """
    sheet = pd.read_csv(review, dtype=str, keep_default_na=False)
    columns, lines = sheet.columns.tolist(), sheet.to_numpy().tolist()
    cards: dict[int, dict[str, object]] = {}
    pairs: dict[int, list[dict[str, object]]] = {}
    for line, (row, cells) in enumerate(zip(rows, lines, strict=True)):
        cards.setdefault(row.record, _card(row))
        pairs.setdefault(row.record, []).append(_pair(line, row, cells))
    return write_page(
        Path(folder),
        "labelling.html.j2",
        [{**card, "pairs": pairs[record]} for record, card in cards.items()],
        {record: record for record in cards},
        open_image,
        title=title,
        searched="captions and paths",
        counts={},
        pairs=len(rows),
        sampled="above" in columns,  # of strata (mining/strata.py)
        columns=columns,
        kept_as=f"lavis_mafa labels {digest(review.read_bytes())}",
    )


def _card(row: GalleryRow) -> dict[str, object]:
    return {
        "record": row.record,
        "path": row.path,
        "own_captions": list(row.own_captions),
        "own_more": row.own_more,
    }


def _pair(line: int, row: GalleryRow, cells: list[str]) -> dict[str, object]:
    """A pair, its cells as the CSV has them, and the own caption that shares most words with it."""
    shared, nearest = max(((_shared_words(row.caption, own), own) for own in row.own_captions), default=(0.0, ""))
    return {
        "line": line,
        "cells": cells,
        "caption": row.caption,
        "p": round(row.p, 3),
        "similarity": row.similarity,
        "nearest": nearest if shared else "",
        "shared": round(shared, 2),
    }


def _shared_words(one: str, other: str) -> float:
    """Jaccard index of two captions' words."""
    words = set(one.lower().split()), set(other.lower().split())
    return len(words[0] & words[1]) / max(len(words[0] | words[1]), 1)
