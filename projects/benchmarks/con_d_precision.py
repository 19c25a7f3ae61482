"""What bf16 in Con-D's tower changes: P(match) and verdicts of the packaged one on scenes, against float32.

    python projects/benchmarks/con_d_precision.py --json projects/benchmarks/con_d_precision.json

Of every batch the hardest pairs of both directions are judged, as in training; similarities are Con-D's own. The head
is in float32 either way. On a CPU bf16 is rounded as on a GPU, sums inside a product aside.
"""

from __future__ import annotations

import argparse
import copy
from typing import Any

import lavis_mafa.compat

import numpy as np
import torch
from machine import about
from torch import Tensor

import lavis_mafa
from lavis_mafa.core.batch import Batch
from lavis_mafa.core.pairs import CONNECTION, hardest_pairs, judge, known_positives
from lavis_mafa.core.settings import MafaSettings
from lavis_mafa.data.scenes.dataset import scenes_table
from lavis_mafa.reports.table import write_json


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", type=int, default=16)
    parser.add_argument("--batch", type=int, default=96)
    parser.add_argument("--json", required=True, help="the file of results")
    given = parser.parse_args()
    lavis_mafa.register()
    result = {**about(), **compared(given.batches, given.batch)}
    write_json(given.json, result)
    print({name: result[name] for name in ("pairs", "verdicts_changed", "connections_changed", "largest_difference")})


def compared(batches: int, size: int) -> dict[str, Any]:
    from lavis_mafa.scorers.con_d import build_con_d, lower_tower

    exact = build_con_d({"arch": "mafa_albef", "model_type": "scenes_con_d"}, torch.device("cpu"))
    low = copy.deepcopy(exact)
    lower_tower(low)
    table, open_scene, _ = scenes_table(batches * size, seed=7)
    p_2 = torch.cat(
        [scores(exact, low, table, open_scene, range(at, at + size)) for at in range(0, batches * size, size)], 1
    )
    rule = MafaSettings()
    verdicts = judge(p_2, rule.low, rule.high)
    changed, connected = verdicts[0] != verdicts[1], (verdicts == CONNECTION).sum(1).tolist()
    return {
        "pairs": p_2.shape[1],
        "verdicts_changed": changed.float().mean().item(),
        "connections": {"fp32": connected[0], "bf16": connected[1]},
        "connections_changed": int(((verdicts == CONNECTION)[0] != (verdicts == CONNECTION)[1]).sum()),
        "largest_difference": (p_2[0] - p_2[1]).abs().max().item(),
        "mean_difference": (p_2[0] - p_2[1]).abs().mean().item(),
    }


def scores(exact: Any, low: Any, table: Any, open_scene: Any, records: range) -> Tensor:
    """(2, C) P(match) of a batch's hardest pairs, in float32 and with the tower in bf16."""
    from lavis_mafa.scorers.embedders import embed_images, embed_texts

    rows = [table.caption_rows(record)[0] for record in records]
    images = torch.stack([exact.view(open_scene(record)) for record in records])
    batch: Batch = {"judge_image": images, "caption": [table.caption(row) for row in rows]}
    image_BQD = embed_images(exact.model, {"image": images})
    text_BD = embed_texts(exact.model, [exact.text_processor(caption) for caption in batch["caption"]])
    sim_BB = torch.einsum("bqd,wd->bwq", image_BQD, text_BD).amax(-1)
    ids = torch.from_numpy(np.asarray(table.image_id)[list(records)]), torch.from_numpy(np.asarray(table.text_id)[rows])
    pairs = hardest_pairs(sim_BB, sim_BB.T, known_positives(*ids))
    return torch.stack([scorer.score(batch, pairs.image_C, pairs.text_C) for scorer in (exact, low)])


if __name__ == "__main__":
    main()
