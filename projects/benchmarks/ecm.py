"""What connection mining costs in training: Con-D's share of each epoch, and how often the store knew the score.

    python projects/benchmarks/ecm.py --json projects/benchmarks/ecm.json

Runs the real training command for M/N = 1, 0.25 and 0.05: Con-D on the student's frozen tower, Con-D with a tower of
its own (the record's view is read again and encoded), and verdicts mined offline from the k nearest pairs of each image
and caption; that mining is timed too. `captions`: a judge of captions, which `--encoder` names. An epoch is its steps:
planning and validation are left out. mining_share: connection mining as a whole, con_d_share: the scores alone.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest import mock

import pandas as pd
from children import arguments, in_child, mining_timed, scoring_timed
from machine import about
from omegaconf import OmegaConf

from lavis_mafa import train
from lavis_mafa.mining_job import job as mine
from lavis_mafa.reports.table import write_json

CONFIG = "projects/mafa/blip2/pretrain_stage1_scenes.yaml"
SHARES = [1.0, 0.25, 0.05]
WAYS = ["shared tower", "own tower", "offline"]
ENCODER = "text/all-MiniLM-L6-v2"  # below LAVIS_MAFA_DATA


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cfg-path", default=CONFIG)
    parser.add_argument("--records", type=int, default=8000, help="N of the config's training data")
    parser.add_argument("--shares", type=float, nargs="+", default=SHARES, help="M/N")
    parser.add_argument(
        "--ways",
        nargs="+",
        default=WAYS,
        choices=[*WAYS, "captions"],
        help="whence Con-D has its image tokens, or none",
    )
    parser.add_argument("--encoder", default=f"{os.environ.get('LAVIS_MAFA_DATA')}/{ENCODER}", help="a folder")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--options", nargs="*", default=[], help="more options of the training command")
    parser.add_argument("--folder", help="where the runs write, and what is removed; default: the temporary folder")
    parser.add_argument("--json", type=Path, required=True, help="the file of results")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        mining = in_child(mined, given, folder) if "offline" in given.ways else None
        result = {"mining": mining, "cells": cells(given, Path(folder))}
    write_json(given.json, {**about(), **result})
    for cell in result["cells"]:
        print(f"M/N {cell['share']}, {cell['con_d']}\n{pd.DataFrame(cell['epochs']).round(4).to_string(index=False)}")


def cells(given: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    return [
        {"share": share, "con_d": con_d, "epochs": in_child(trained, given, share, con_d, folder)}
        for share in given.shares
        for con_d in given.ways
    ]


def trained(given: argparse.Namespace, share: float, con_d: str, folder: Path) -> list[dict[str, float]]:
    """A row an epoch of a run with M = share · N."""
    output = folder / f"{con_d.replace(' ', '_')}_{share}"
    space = "all" if share == 1 else max(1, round(share * given.records))
    options = [f"run.output_dir={output}", f"run.token_folder={folder}/tokens", f"run.search_space={space}"]
    options += [f"run.max_epoch={given.epochs}", "run.valid_splits=[]", "run.test_splits=[]", *given.options]
    if con_d == "offline":
        options.append(f"run.con_d={{arch: file, path: {folder}/mined/connections.parquet}}")
    if con_d == "captions":
        options.append(f"run.con_d={{arch: captions, encoder: {given.encoder}}}")
    arguments(given.cfg_path, options)
    sharing = mock.patch("lavis_mafa.scorers.con_d.share_tower") if con_d == "own tower" else mock.MagicMock()
    with scoring_timed() as taken, mining_timed() as mining, sharing:
        train.run("", evaluate=False)
    steps = pd.read_json(output / "steps.jsonl", lines=True)
    sums = steps.groupby("epoch")[["s_it", "scored", "from_store"]].sum()
    return [
        {
            "epoch": int(epoch),
            "seconds": float(row.s_it),
            "con_d_share": taken[epoch][0] / float(row.s_it),
            "mining_share": mining[epoch] / float(row.s_it),
            "store_hit_rate": float(row.from_store / max(row.from_store + row.scored, 1)),
            "pairs_scored": int(row.scored),
        }
        for epoch, row in sums.iterrows()
    ]


def mined(given: argparse.Namespace, folder: str) -> dict[str, float]:
    """The verdicts of the training data's nearest pairs, by the Con-D of the config."""
    training = OmegaConf.merge(OmegaConf.load(given.cfg_path), OmegaConf.from_dotlist(given.options))
    config = {"model": training.run.con_d, "datasets": training.datasets, "run": {"gallery_size": 0}}
    OmegaConf.save(OmegaConf.create(config), f"{folder}/mine.yaml")
    arguments(f"{folder}/mine.yaml", [f"run.output_dir={folder}/mined"])
    began = time.perf_counter()
    with scoring_timed() as taken:
        mine.main()
    return {"seconds": time.perf_counter() - began, "scoring_seconds": taken[0][0], "pairs": int(taken[0][1])}


if __name__ == "__main__":
    main()
