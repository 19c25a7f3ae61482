"""The data set `image_text` of a config, as records and their images. No LAVIS."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import cast

from lavis_mafa.common.tree import Keys, at, keys_at
from lavis_mafa.data.annotations import read_annotations
from lavis_mafa.data.images import ImageFiles
from lavis_mafa.data.records import RecordTable
from lavis_mafa.data.rules import FileRules


def image_text(split: str, options: Keys) -> tuple[RecordTable, ImageFiles]:
    """The records of a split, and what opens their images. options: those of configs/datasets/image_text.yaml.

    Raises ValueError: no image folder, or what the readers refuse, naming the split and its files.
    """
    root, files = image_folder(options, "image_text"), cast("str | list[str]", at(options, "annotations", split))
    rules, columns = FileRules.of(options), cast("Mapping[str, str | None]", keys_at(options, "columns"))
    rows = read_annotations(files, split, rules.max_characters, **columns)
    rows = rows.slice(0, cast("int | None", options.get("max_rows")))
    source = f"split {split} ({files if isinstance(files, str) else ', '.join(files)})"
    try:
        table = RecordTable.from_rows(rows, str(options.get("name", "image_text")), root=root)
    except ValueError as error:
        raise ValueError(f"datasets.image_text, {source}: {error}") from None
    return table, ImageFiles(root, table.images, source, rules)


def image_folder(config: Mapping[str, object], name: str) -> list[str]:
    """`images` of a data set's config: one folder or several. Raises ValueError: there is no such folder."""
    given = config.get("images")
    roots = [given] if not given or isinstance(given, str) else list(cast("Iterable[object]", given))
    for root in roots:
        if not isinstance(root, str) or not Path(root).is_dir():
            raise ValueError(
                f"datasets.{name}.images: no folder at {root!r}; give the folder that image paths start from"
            )
    return [str(root) for root in roots]
