"""The smoke preset: LAVIS_MAFA_SMOKE=FOLDER shortens any run to a handful of records, on the same code path.

What the run would write or read below `output/` moves into FOLDER. The tests run the README's commands with it, and
leave no trace in a checkout.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from lavis_mafa.common.files import CONFIGS

PRESET = CONFIGS / "smoke.yaml"


def shorten(config: Any) -> Any:
    """The config as it is, or shortened where LAVIS_MAFA_SMOKE names a folder."""
    folder = os.environ.get("LAVIS_MAFA_SMOKE")
    if not folder:
        return config
    smoke, short = OmegaConf.load(PRESET), OmegaConf.to_container(config, resolve=True)
    # what is off stays off: a dual encoder has nothing to re-rank with
    short["run"] |= {key: value for key, value in smoke.run.items() if short["run"].get(key)}
    for data in short["datasets"].values():
        for split in (data.get("splits") or {}).values():
            split["n"] = min(split["n"], smoke.records)
        if "max_rows" in data:
            data["max_rows"] = smoke.records
    return OmegaConf.create(_moved(short, Path(folder)))


def _moved(value: Any, folder: Path) -> Any:
    if isinstance(value, dict):
        return {key: _moved(inner, folder) for key, inner in value.items()}
    return str(folder / value) if isinstance(value, str) and value.startswith("output/") else value
