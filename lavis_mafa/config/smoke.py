"""`--smoke FOLDER` shortens any run to a handful of records, on the same code path.

What the run would write or read below `output/` moves into FOLDER. The tests run the README's commands with it, and
leave no trace in a checkout.
"""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

from lavis_mafa.common.config_file import loaded, with_texts
from lavis_mafa.common.files import CONFIGS

PRESET = CONFIGS / "smoke.yaml"


def shorten(config: DictConfig, folder: Path) -> DictConfig:
    """The config with the preset's sizes and everything below output/ moved into `folder`; ${…} stays unresolved."""
    smoke = loaded(PRESET)
    short = with_texts(config, lambda text: str(folder / text) if text.startswith("output/") else text)
    # what is off stays off: a dual encoder has nothing to re-rank with
    short.run.update({key: value for key, value in smoke.run.items() if short.run.get(key)})
    for data in short.datasets.values():
        for split in (data.get("splits") or {}).values():
            split.n = min(split.get("n", smoke.records), smoke.records)
        if "max_rows" in data:
            data.max_rows = smoke.records
    return short
