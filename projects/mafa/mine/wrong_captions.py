"""What wrong captions cost a judge of captions: Flickr8k's judged pairs, a share of the known captions exchanged.

    python projects/mafa/mine/wrong_captions.py --share 0.3

Each image is known by its first caption. That of a share of the images becomes another image's first caption; the
people's judgments stay. P(match) is calibrated as mine_flickr8k.yaml has it, on the pairs with the wrong captions.
"""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from lavis_mafa.core.calibration import Calibration
from lavis_mafa.core.metrics import roc_auc
from lavis_mafa.data.annotations import read_annotations
from lavis_mafa.data.own_captions import OwnCaptions
from lavis_mafa.data.records import RecordTable
from lavis_mafa.encoders.text_encoder import TextEncoder, load_text_encoder
from lavis_mafa.evaluation.judged_pairs import JudgedPairs, read_judged_pairs
from lavis_mafa.scorers.captions import CaptionScorer

HIGH = 0.8
SEEDS = 3


def exchanged(table: RecordTable, share: float, seed: int) -> RecordTable:
    """The first captions alone, those of a share of the images moved on among these."""
    first, place_N = table.first_captions(), np.arange(table.n_records)
    moved = np.random.default_rng(seed).permutation(table.n_records)[: round(share * table.n_records)]
    place_N[moved] = np.roll(moved, 1)
    return replace(first, captions=first.captions.take(pa.array(place_N)), text_id=first.text_id[place_N])


def figures(table: RecordTable, judged: JudgedPairs, encode: TextEncoder) -> dict[str, float]:
    """AUC over all judged pairs, precision and recall of those above HIGH."""
    pairs = judged.pairs[judged.selections()["all"]]
    record_K, match_K = judged.record_I[pairs["image"]], pairs["label"].to_numpy()
    judge = CaptionScorer(encode, OwnCaptions.of_table(table))
    text_K, image_id_N = torch.tensor(pairs["text"].to_numpy()), torch.from_numpy(table.image_id)
    batch = {"image_id": image_id_N, "caption": judged.captions}
    score_K = judge.score(batch, torch.from_numpy(record_K), text_K).numpy()
    image_id_K = table.image_id[record_K]
    p_K = Calibration.fitted(score_K, match_K, image_id_K, "isotonic")(score_K, image_id_K)
    taken_K = p_K > HIGH
    precision, recall = (float(match_K[taken_K].sum() / max(n, 1)) for n in (taken_K.sum(), match_K.sum()))
    return {"auc": roc_auc(match_K, score_K), "precision": precision, "recall": recall}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--share", type=float, default=0.3, help="of the images whose caption is another's")
    share = parser.parse_args().share
    data = Path(os.environ["LAVIS_MAFA_DATA"])
    table = RecordTable.from_rows(read_annotations(str(data / "flickr8k" / "flickr8k_test.json")), "flickr8k")
    judged = read_judged_pairs(data / "flickr8k" / "fn_benchmark.json", table)
    encode = load_text_encoder(str(data / "text" / "all-MiniLM-L6-v2"), "encoder", torch.device("cpu"), {})
    found = {"clean": [figures(exchanged(table, 0.0, 0), judged, encode)]}
    found[f"{share:.0%} wrong"] = [figures(exchanged(table, share, seed), judged, encode) for seed in range(SEEDS)]
    mean = {name: {key: np.mean([one[key] for one in runs]) for key in runs[0]} for name, runs in found.items()}
    print(json.dumps(mean, indent=2, default=lambda value: round(float(value), 4)))


if __name__ == "__main__":
    main()
