"""Data sets for LAVIS' registry: `image_text`, any annotated images, and `scenes`, the embedded data."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lavis.common.registry import registry
from lavis.datasets.builders.base_dataset_builder import BaseDatasetBuilder
from omegaconf import OmegaConf

from lavis_mafa.common.files import CONFIGS
from lavis_mafa.data.annotations import read_annotations
from lavis_mafa.data.dataset import PairDataset, RetrievalDataset
from lavis_mafa.data.images import ImageFiles
from lavis_mafa.data.records import RecordTable
from lavis_mafa.data.scenes.dataset import scenes_table

AUGMENTING = ("blip_image_train", "blip2_image_train", "albef_image_train", "clip_image_train", "open_clip_image_train")


class RecordBuilder(BaseDatasetBuilder):
    """A builder whose splits are record tables: `train` becomes pairs, every other split a retrieval set."""

    def _download_data(self) -> None:
        """Nothing is fetched: the data is local or rendered."""

    def source(self, split: str, options: Mapping[str, Any]) -> tuple[RecordTable, Any, Any]:
        """(table, open_image(record) → PIL, truth or None) of a split."""
        raise NotImplementedError

    def splits(self) -> Mapping[str, Any]:
        raise NotImplementedError

    def build(self) -> dict[str, Any]:
        self.build_processors()
        config = OmegaConf.to_container(self.config, resolve=True)
        built: dict[str, Any] = {}
        for split in self.splits():
            table, opener, truth = self.source(split, config)
            train = split == "train"
            kind = "train" if train else "eval"
            vis, text = self.vis_processors[kind], self.text_processors[kind]
            if train:
                name = config["vis_processor"]["train"]["name"]
                seed, on_bad_image = int(config.get("seed", 0)), config.get("on_bad_image", "raise")
                built[split] = PairDataset(table, opener, vis, text, seed, name in AUGMENTING, on_bad_image)
            else:
                built[split] = RetrievalDataset(table, opener, vis, text)
            built[split].truth = truth
        return built


@registry.register_builder("image_text")
class ImageTextBuilder(RecordBuilder):
    """Any images with captions: ALBEF/LAVIS JSON, JSONL, CSV, TSV or Parquet, images below a root."""

    DATASET_CONFIG_DICT = {"default": str(CONFIGS / "datasets" / "image_text.yaml")}

    def splits(self) -> Mapping[str, Any]:
        annotations = self.config.get("annotations")
        if not annotations:
            raise ValueError(
                "datasets.image_text.annotations is empty; give e.g. annotations: {train: my.json, test: test.json}"
            )
        return annotations

    def source(self, split: str, options: Mapping[str, Any]) -> tuple[RecordTable, Any, Any]:
        root = options.get("images")
        if not root or not Path(root).is_dir():
            raise ValueError(
                f"datasets.image_text.images: no folder at {root!r}; give the folder that the image paths start from"
            )
        rows = read_annotations(options["annotations"][split], **(options.get("columns") or {}))
        rows = rows.slice(0, options.get("max_rows"))
        table = RecordTable.from_rows(rows, dataset=options.get("name", "image_text"))
        return table, ImageFiles(root, table.images), None


@registry.register_builder("scenes")
class ScenesBuilder(RecordBuilder):
    """Rendered scenes with captions and a truth function; nothing to download."""

    DATASET_CONFIG_DICT = {"default": str(CONFIGS / "datasets" / "scenes.yaml")}

    def splits(self) -> Mapping[str, Any]:
        return self.config.splits

    def source(self, split: str, options: Mapping[str, Any]) -> tuple[RecordTable, Any, Any]:
        return scenes_table(**options["splits"][split])
