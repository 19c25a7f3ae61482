"""A builder for LAVIS' registry whose data is local or made on the spot."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lavis.datasets.builders.base_dataset_builder import BaseDatasetBuilder
from torch.utils.data import Dataset

from lavis_mafa.data.dataset import VisProcessor
from lavis_mafa.data.records import TextProcessor


class LocalBuilder(BaseDatasetBuilder):
    """`splits` names the splits and what each is made of, `make` makes one. Nothing is fetched."""

    def _download_data(self) -> None:
        pass

    def splits(self) -> Mapping[str, Any]:
        """{split: its options}."""
        raise NotImplementedError

    def make(self, split: str, options: Any, vis: VisProcessor, text: TextProcessor) -> Dataset[Any]:
        """The data set of a split; vis, text: its processors."""
        raise NotImplementedError

    def build(self) -> dict[str, Dataset[Any]]:
        self.build_processors()
        built: dict[str, Dataset[Any]] = {}
        for split, options in self.splits().items():
            kind = "train" if split == "train" else "eval"
            built[split] = self.make(split, options, self.vis_processors[kind], self.text_processors[kind])
        return built
