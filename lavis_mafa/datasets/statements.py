"""`scenes_statements` for LAVIS' registry, and LAVIS' own NLVR2 as rows of the same kind."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from lavis.common.registry import registry
from lavis.datasets.datasets.nlvr_datasets import NLVRDataset, NLVREvalDataset

from lavis_mafa.common.config_file import plain_config
from lavis_mafa.common.files import CONFIGS
from lavis_mafa.data.dataset import VisProcessor
from lavis_mafa.data.downstream import StatementRow, Statements
from lavis_mafa.data.images import open_image
from lavis_mafa.data.records import TextProcessor
from lavis_mafa.data.rules import DEFAULTS, FileRules
from lavis_mafa.data.scenes.dataset import open_scene
from lavis_mafa.data.scenes.scene import scene_number, scene_rng
from lavis_mafa.data.scenes.statements import statement_about
from lavis_mafa.datasets.local import LocalBuilder

STREAM = 8  # of scene_rng


@registry.register_builder("scenes_statements")
class ScenesStatementBuilder(LocalBuilder):
    """`splits: {train: {n: statements, seed: …}}`; statement i is about the scenes 2i and 2i + 1 of the seed."""

    DATASET_CONFIG_DICT = {"default": str(CONFIGS / "datasets" / "scenes_statements.yaml")}

    def splits(self) -> Mapping[str, Mapping[str, int]]:
        return plain_config(self.config.splits)

    def make(self, split: str, options: Mapping[str, int], vis: VisProcessor, text: TextProcessor) -> Statements:
        if set(options) != {"n", "seed"}:
            raise ValueError(f"a split of scenes_statements needs n and seed, and has {options}")
        seed, flip = options["seed"], NLVRDataset._flip if split == "train" else None
        return Statements(
            list(_rows(**options)),
            lambda row, side: open_scene(seed, 2 * row + side),
            vis,
            text,
            int(self.config.seed),
            flip,
        )


def _rows(n: int, seed: int) -> Iterator[StatementRow]:
    for number in range(n):
        left, right = scene_number(seed, 2 * number), scene_number(seed, 2 * number + 1)
        sentence, holds = statement_about(left, right, scene_rng(seed, number, STREAM))
        keys = (f"scene/{seed}/{2 * number}", f"scene/{seed}/{2 * number + 1}")
        yield StatementRow(number, keys, sentence, holds)


def from_lavis(dataset: NLVRDataset, seed: int, rules: FileRules = DEFAULTS) -> Statements:
    """LAVIS' NLVR2 split; its images are opened as ours are, and its sides flipped by seed."""
    rows = [
        StatementRow(number, tuple(one["images"]), str(one["sentence"]), one["label"] == "True")
        for number, one in enumerate(dataset.annotation)
    ]
    flip = None if isinstance(dataset, NLVREvalDataset) else NLVRDataset._flip
    processors = dataset.vis_processor, dataset.text_processor
    return Statements(
        rows, lambda row, side: open_image(dataset.vis_root, rows[row].images[side], rules), *processors, seed, flip
    )
