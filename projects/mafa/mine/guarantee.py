"""How often the guarantee of `run.target_precision` fails, over draws of labels where every label is known.

    python -m lavis_mafa.mine --cfg-path projects/mafa/mine/mine_scenes.yaml
    python projects/mafa/mine/guarantee.py --scenes output/mafa/mine_scenes --json projects/mafa/mine/guarantee.json

Scenes: the candidates of that run, whose truth is exact. Flickr8k (below LAVIS_MAFA_DATA, left out where absent): its
pairs judged by people, as if they were the candidates; the judge compares a caption with the image's first one.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from lavis_mafa.common.progress import progress
from lavis_mafa.core.calibration import Calibration
from lavis_mafa.data.scenes.dataset import scenes_table
from lavis_mafa.encoders.text_encoder import load_text_encoder
from lavis_mafa.mining.estimates import Powered
from lavis_mafa.mining.guarantee import Labels, loosest
from lavis_mafa.mining.strata import TESTED, Strata, around_target, draw

SCENES = {"n": 1000, "seed": 21, "match_share": 0.002, "captions_a_scene": 2}  # of mine_scenes.yaml
TARGETS = (0.8, 0.85, 0.9, 0.95)
KINDS = ("false_negative", "hard_true_negative")
World = tuple[np.ndarray, np.ndarray]  # P(match) (K,), truth (K,)


def scenes(folder: Path) -> World:
    """Candidates that mine_scenes.yaml left in its folder."""
    mined = pd.read_parquet(folder / "connections.parquet", columns=["p", "record", "text_row"])
    _, _, truth = scenes_table(**SCENES)
    return mined["p"].to_numpy(np.float32), truth(mined["record"].to_numpy(), mined["text_row"].to_numpy())


def flickr8k(data: Path) -> World:
    """Pairs that people judged, scored by the cosine to the image's first caption, calibrated (cross-fitted)."""
    rows = json.loads((data / "flickr8k" / "fn_benchmark.json").read_text())
    judged = pd.DataFrame([row for row in rows if row["kind"] in KINDS])
    photographs = json.loads((data / "flickr8k" / "flickr8k_test.json").read_text())
    first = {row["image"]: row["caption"][0] for row in photographs}
    encoder = load_text_encoder(str(data / "text" / "all-MiniLM-L6-v2"), "encoder", torch.device("cpu"), {})
    one, other = encoder(judged["image"].map(first).tolist()), encoder(judged["caption"].tolist())
    cosine = (one * other).sum(dim=1).clamp(0, 1).double().numpy()
    match, image = judged["label"].eq(1).to_numpy(), judged["image"].factorize()[0]
    return Calibration.fitted(cosine, match, image, "temperature")(cosine, image).astype(np.float32), match


def labelled(strata: Strata, true_K: np.ndarray, at_L: np.ndarray) -> Labels:
    stratum_L, n = strata.stratum_K[at_L], len(strata.size_S)
    matches_S = np.bincount(stratum_L, true_K[at_L], n).astype(np.int64)
    return Labels(strata.above_S, strata.size_S, np.bincount(stratum_L, minlength=n), matches_S)


def measured(world: World, target: float, size: int, draws: int) -> dict[str, object]:
    """Over the draws: how often a bound is found, how often its precision is below the target, what it finds.

    worst: the largest share of failures where the target is just above the precision of one of the tested bounds.
    coverage: how often the intervals of 95 % hold the truth; of matches in all, and of recall at the middle bound.
    """
    p_K, true_K = world
    strata, every_K = around_target(p_K, target, size), np.ones(len(p_K))
    chosen_K = [strata.stratum_K <= number for number in range(len(strata.size_S))]
    precision_S = np.array([true_K[above].mean() for above in chosen_K])
    recall_S = np.array([true_K[above].sum() / true_K.sum() for above in chosen_K])
    half = TESTED // 2
    found, failures, inside, worst = [], 0, np.zeros(2), np.zeros(TESTED)
    for seed in progress(range(draws), desc=f"target {target}"):
        at_L = draw(strata, seed).at_L
        labels = labelled(strata, true_K, at_L)
        chosen, _ = loosest(labels, target, seed)
        if chosen is not None:
            found.append(recall_S[chosen[0] - 1])
            failures += precision_S[chosen[0] - 1] < target
        for edge in range(TESTED):
            beyond = precision_S[edge] + 1e-6
            chosen = loosest(labels, beyond, seed)[0] if beyond < 1 else None
            worst[edge] += chosen is not None and precision_S[chosen[0] - 1] < beyond
        powered = Powered(p_K.astype(float), strata.stratum_K, at_L, true_K[at_L].astype(float))
        total, recall = powered.total(every_K), powered.ratio(chosen_K[half].astype(float), every_K)
        inside += (
            total.low <= true_K.sum() <= total.high,
            recall is not None and recall.low <= recall_S[half] <= recall.high,
        )
    return {
        "target": target,
        "found": len(found) / draws,
        "failures": failures / draws,
        "worst": worst.max() / draws,
        "recall": float(np.mean(found)) if found else None,
        "best_recall": float(recall_S[precision_S >= target].max(initial=0)),
        "coverage": dict(zip(("matches", "recall"), (inside / draws).tolist(), strict=True)),
    }


def worlds(scenes_folder: Path | None) -> Iterator[tuple[str, World]]:
    if scenes_folder is not None:
        yield "scenes", scenes(scenes_folder)
    data = os.environ.get("LAVIS_MAFA_DATA")
    if data and (Path(data) / "flickr8k").is_dir():
        yield "flickr8k", flickr8k(Path(data))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=Path, help="folder of a run of mine_scenes.yaml")
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument("--size", type=int, default=200, help="labels of a draw")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    result: dict[str, object] = {"draws": options.draws, "labels": options.size}
    for name, world in worlds(options.scenes):
        rows = [measured(world, target, options.size, options.draws) for target in TARGETS]
        result[name] = {"pairs": len(world[0]), "matches": int(world[1].sum()), "targets": rows}
        print(name, pd.DataFrame(rows).to_string(index=False), sep="\n")
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
