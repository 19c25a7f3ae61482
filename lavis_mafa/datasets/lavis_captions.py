"""LAVIS' own caption data sets (coco_caption, vg_caption, conceptual_caption_3m, sbu_caption, …) as one record table.

Their rows of one image are gathered into a record; ids are those of their annotation, in a space of their own for each
data set, so they are the same in every mixture. An image that two data sets share (COCO and VG do) stays two records.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
from lavis.datasets.datasets.base_dataset import BaseDataset
from lavis.datasets.datasets.retrieval_datasets import RetrievalEvalDataset
from omegaconf import DictConfig

from lavis_mafa.data.annotations import ROWS
from lavis_mafa.data.dataset import PairDataset, RetrievalDataset
from lavis_mafa.data.identity import key_string
from lavis_mafa.data.images import ImageFiles
from lavis_mafa.data.mixed import MixedImages, mixed_table
from lavis_mafa.data.records import RecordTable
from lavis_mafa.data.rules import DEFAULTS, FileRules, readable
from lavis_mafa.datasets.pairs import AUGMENTING

Splits = dict[str, Any]  # {split: data set}, as LAVIS' builders give them


def as_records(
    name: str, dataset: object, one_caption_a_record: bool = False, rules: FileRules = DEFAULTS
) -> tuple[RecordTable, ImageFiles]:
    """The records of a LAVIS data set with `annotation` (dicts of image, caption, perhaps image_id) and `vis_root`."""
    if not isinstance(dataset, BaseDataset):
        raise ValueError(
            f"datasets.{name}: {type(dataset).__name__} is not a LAVIS data set of image files and cannot be "
            "mixed with one"
        )
    columns: dict[str, list[Any]] = {"image": [], "caption": [], "image_id": []}
    for number, row in enumerate(dataset.annotation):
        if not row.get("image") or not row.get("caption"):
            raise ValueError(f"datasets.{name}, row {number}: it needs an image and a caption, but is {str(row)[:80]}")
        captions = [row["caption"]] if isinstance(row["caption"], str) else row["caption"]
        try:
            columns["caption"].append([readable(str(caption), rules.max_characters) for caption in captions])
        except ValueError as error:
            raise ValueError(f"datasets.{name}, row {number}: {error}") from None
        columns["image"].append(row["image"])
        key = row.get("image_id")
        columns["image_id"].append(None if key is None else key_string(key))
    table = RecordTable.from_rows(pa.table(columns, schema=ROWS), name, one_caption_a_record)
    return table, ImageFiles(dataset.vis_root, table.images, rules=rules)


def gathered(
    datasets: dict[str, Splits], datasets_cfg: DictConfig, seed: int, one_caption_a_record: bool = False
) -> dict[str, Splits]:
    """The configured data sets; LAVIS' own are gathered into one record table, which alone can be planned.

    one_caption_a_record: see `mix`.
    """
    if not any(isinstance(splits.get("train"), BaseDataset) for splits in datasets.values()):
        return datasets
    choices = {settings.get("on_bad_image", "raise") for settings in datasets_cfg.values()}
    augmented = next(iter(datasets_cfg.values())).vis_processor.train.name in AUGMENTING
    rules = {name: FileRules.of(settings) for name, settings in datasets_cfg.items()}
    return mix(datasets, seed, augmented, "replace" if "replace" in choices else "raise", one_caption_a_record, rules)


def mix(
    datasets: Mapping[str, Splits],
    seed: int,
    augmented: bool,
    on_bad_image: str,
    one_caption_a_record: bool = False,
    rules: Mapping[str, FileRules] | None = None,
) -> dict[str, Splits]:
    """{"coco_caption+vg_caption": {"train": PairDataset}} from LAVIS' data sets by name and split.

    Of several only `train`; of a lone one (coco_retrieval, flickr30k) also its retrieval splits.
    one_caption_a_record: an epoch has every caption, as LAVIS counts, and not every image. rules: of each data set.

    ValueError: data sets whose processors differ (one batch, one view), or that hold no image files.
    """
    trained = {name: splits.get("train") for name, splits in datasets.items()}
    of = dict.fromkeys(trained, DEFAULTS) | dict(rules or {})
    read = [as_records(name, dataset, one_caption_a_record, of[name]) for name, dataset in trained.items()]
    tables, openers = zip(*read, strict=True)
    first = next(iter(trained.values()))
    others = list(trained.items())[1:]
    for name, dataset in others:
        for which in ("vis_processor", "text_processor"):
            if _about(getattr(dataset, which)) != _about(getattr(first, which)):
                raise ValueError(
                    f"datasets.{name}.{which} differs from that of {next(iter(trained))}: use the same for all of them"
                )
    starts = np.cumsum([0, *(table.n_records for table in tables[:-1])])
    opener = MixedImages(tuple(openers), tuple(starts.tolist()))
    table = mixed_table(tables)
    mixed = PairDataset(table, opener, first.vis_processor, first.text_processor, seed, augmented, on_bad_image)
    held_out = {} if others else _evaluated(*next(iter(datasets.items())), of[next(iter(trained))])
    return {"+".join(trained): {"train": mixed, **held_out}}


def _evaluated(name: str, splits: Splits, rules: FileRules) -> dict[str, RetrievalDataset]:
    held_out = {split: dataset for split, dataset in splits.items() if isinstance(dataset, RetrievalEvalDataset)}
    return {
        split: RetrievalDataset(*as_records(name, dataset, rules=rules), dataset.vis_processor, dataset.text_processor)
        for split, dataset in held_out.items()
    }


def _about(processor: object) -> str:
    """What a processor does, comparable."""
    settings = {key: value for key, value in vars(processor).items() if key not in ("transform", "normalize")}
    return f"{type(processor).__name__} {settings} {getattr(processor, 'transform', '')!r}"
