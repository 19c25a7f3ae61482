"""open_clip CSV files: a caption is the text that stands there. Tested in tests/openclip/test_csv_table.py."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from lavis_mafa.data.identity import text_id
from lavis_mafa.data.rules import MAX_CHARACTERS

WEIGHT = "weight"  # a column that a file of connections may have


def read_pairs(path: str | Path, image_key: str, caption_key: str, separator: str) -> tuple[list[str], list[str]]:
    """Image paths and captions (N,) of a CSV file with a header, to the letter: "None" and "NA" are words.

    Raises:
        ValueError: a file that is missing or no CSV, a column that is not there, an empty path or caption,
            or a caption that is too long, by its row.
    """
    table = _table(path, separator)
    for key in (image_key, caption_key):
        if key not in table:
            raise ValueError(
                f"{path} has no column {key!r}, only {', '.join(map(repr, table))}: name the columns with "
                f"--csv-img-key and --csv-caption-key, and what stands between them with --csv-separator"
            )
    table = table[[image_key, caption_key]].fillna("")  # a row that ends early
    for key in (image_key, caption_key):
        empty = table[key].str.strip().eq("")
        if empty.any():
            rows = ", ".join(str(row + 1) for row in empty.to_numpy().nonzero()[0][:10])
            raise ValueError(
                f"{path}: {key!r} is empty in {empty.sum()} rows (row {rows}): fill it in or remove the row"
            )
    too_long = table[caption_key].str.len().gt(MAX_CHARACTERS)
    if too_long.any():
        row = int(too_long.to_numpy().argmax())
        raise ValueError(
            f"{path}, row {row + 1}: {caption_key!r} has {len(table[caption_key][row]):,} characters, and at most "
            f"{MAX_CHARACTERS:,} are read: shorten it or remove the row"
        )
    return table[image_key].tolist(), table[caption_key].tolist()


def read_weights(path: str | Path, separator: str) -> list[float] | None:
    """What each pair of a file of connections weighs, its column `weight`; None where there is none.

    Raises:
        ValueError: a weight that is no number in [0, 1], by its row.
    """
    table = _table(path, separator)
    if WEIGHT not in table:
        return None
    weights = pd.to_numeric(table[WEIGHT], errors="coerce")
    wrong = ~weights.between(0, 1)  # NaN is not between
    if wrong.any():
        row = int(wrong.to_numpy().argmax())
        raise ValueError(f"{path}, row {row + 1}: {WEIGHT} is {table[WEIGHT][row]!r}; it must be a number in [0, 1]")
    return [float(weight) for weight in weights]


def as_in_the_data(
    images_P: Sequence[str], captions_P: Sequence[str], data: tuple[Sequence[str], Sequence[str]], source: str | Path
) -> list[str]:
    """The images of listed pairs as the training data spell them: a relative path is read below the working folder.

    Args:
        images_P: of the listed pairs. captions_P: theirs.
        data: image paths and captions of the training data.
        source: the file of the pairs, for messages.

    Raises:
        ValueError: no listed pair has both its image and its caption in the data.
    """
    spelled = {os.path.abspath(image): image for image in data[0]}
    images = [spelled.get(os.path.abspath(image), image) for image in images_P]
    known_images, known_captions = {*data[0]}, {*map(text_id, data[1])}
    pairs = zip(images, captions_P, strict=True)
    found = sum(image in known_images and text_id(caption) in known_captions for image, caption in pairs)
    if not found:
        raise ValueError(
            f"{source}: none of its {len(images):,} pairs has image and caption in the training data: write both as "
            "they stand there, and start where relative paths are right"
        )
    logging.info("%s: %d of %d pairs have image and caption in the training data", source, found, len(images))
    return images


def _table(path: str | Path, separator: str) -> pd.DataFrame:
    try:
        return pd.read_csv(path, sep=separator, dtype=str, keep_default_na=False, na_values=[])
    except (OSError, ValueError) as error:  # pandas' own errors are ValueErrors
        raise ValueError(f"{path} cannot be read as CSV ({error}): check the path, and save it in UTF-8") from error
