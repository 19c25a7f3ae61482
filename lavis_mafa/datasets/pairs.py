"""Data sets for LAVIS' registry: `image_text`, any annotated images, and `scenes`, the embedded data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lavis.common.registry import registry

from lavis_mafa.common.config_file import plain_config
from lavis_mafa.common.files import CONFIGS
from lavis_mafa.data.dataset import OpenImage, PairDataset, RetrievalDataset, TruthFunction, VisProcessor
from lavis_mafa.data.records import RecordTable, TextProcessor
from lavis_mafa.data.scenes.dataset import scenes_table
from lavis_mafa.data.sources import image_text
from lavis_mafa.datasets.local import LocalBuilder

AUGMENTING = ("blip_image_train", "blip2_image_train", "albef_image_train", "clip_image_train", "open_clip_image_train")


class RecordBuilder(LocalBuilder):
    """A builder whose splits are record tables: `train` becomes pairs, every other split a retrieval set."""

    def source(self, split: str, options: Mapping[str, Any]) -> tuple[RecordTable, OpenImage, TruthFunction | None]:
        """(table, open_image(record) → PIL, truth or None) of a split."""
        raise NotImplementedError

    def make(
        self, split: str, options: object, vis: VisProcessor, text: TextProcessor
    ) -> PairDataset | RetrievalDataset:
        config = plain_config(self.config)
        table, opener, truth = self.source(split, config)
        if split == "train":
            augmented = config["vis_processor"]["train"]["name"] in AUGMENTING
            seed, on_bad_image = int(config.get("seed", 0)), config.get("on_bad_image", "raise")
            dataset: PairDataset | RetrievalDataset = PairDataset(
                table, opener, vis, text, seed, augmented, on_bad_image
            )
        else:
            dataset = RetrievalDataset(table, opener, vis, text)
        dataset.truth = truth
        return dataset


@registry.register_builder("image_text")
class ImageTextBuilder(RecordBuilder):
    """Any images with captions: ALBEF/LAVIS JSON, JSONL, CSV, TSV or Parquet, images below a root."""

    DATASET_CONFIG_DICT = {"default": str(CONFIGS / "datasets" / "image_text.yaml")}

    def splits(self) -> Mapping[str, Any]:
        annotations = self.config.get("annotations")
        if not annotations:
            raise ValueError(
                "datasets.image_text.annotations is empty; set it, e.g. annotations: {train: my.json, test: test.json}"
            )
        return annotations

    def source(self, split: str, options: Mapping[str, Any]) -> tuple[RecordTable, OpenImage, TruthFunction | None]:
        return (*image_text(split, options), None)


@registry.register_builder("scenes")
class ScenesBuilder(RecordBuilder):
    """Rendered scenes with captions and a truth function; nothing to download."""

    DATASET_CONFIG_DICT = {"default": str(CONFIGS / "datasets" / "scenes.yaml")}

    def splits(self) -> Mapping[str, Any]:
        return self.config.splits

    def source(self, split: str, options: Mapping[str, Any]) -> tuple[RecordTable, OpenImage, TruthFunction | None]:
        return scenes_table(**options["splits"][split])
