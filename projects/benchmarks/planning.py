"""Time to plan an epoch: GritPlanner against the dense queue of the official algorithm, on the same embeddings.

    python projects/benchmarks/planning.py --json projects/benchmarks/planning.json

The baseline is GRIT-VLP's as published, in torch: of M samples both soft-maxed M x M similarity matrices, one arg-max a
step, and the row and column of every used sample set to zero in both. Both chain the same spaces from the same starts;
whether the chains are equal is in the output. The embeddings are synthetic.py's. Times are medians over repeats,
baseline and planner in turn, in one process. M = all is planning_all.py's.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from machine import about
from synthetic import embeddings
from torch import Tensor
from tqdm import tqdm

from lavis_mafa.core.chain import Chainer
from lavis_mafa.reports.table import write_json

TEMPERATURE, DECAY = 0.07, 1.46  # the decay that planning_all.py finds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=48_000)
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--spaces", type=int, nargs="+", default=[960, 1920, 4800, 9600], help="search spaces M")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", required=True)
    given = parser.parse_args()
    image_ND, text_ND = embeddings(given.records, given.dim, DECAY)
    rows = [compared(image_ND, text_ND, space, given.repeats) for space in tqdm(given.spaces, desc="search spaces")]
    write_json(given.json, {**about(), "spaces": rows})
    for row in rows:
        print(row)


def compared(image_ND: np.ndarray, text_ND: np.ndarray, space: int, repeats: int) -> dict[str, Any]:
    """Both ways of chaining every space of M records, in turn."""
    lows = range(0, len(image_ND) - space + 1, space)
    starts = np.random.default_rng(1).integers(space, size=len(lows))
    chainer = Chainer()
    ways: dict[str, Callable[..., Any]] = {"official": official_chain, "planner": chainer.chain}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    orders = {}
    for _ in range(repeats):
        for name, chain in ways.items():
            began = time.perf_counter()
            orders[name] = [
                np.asarray(chain(image_ND[low : low + space], text_ND[low : low + space], int(start)))
                for low, start in zip(lows, starts, strict=True)
            ]
            seconds[name].append(time.perf_counter() - began)
    each = {name: 1e6 * float(np.median(took)) / (len(lows) * space) for name, took in seconds.items()}
    same = np.mean([(a == b).all() for a, b in zip(orders["official"], orders["planner"], strict=True)])
    return {
        "search_space": space,
        "official_us_a_record": each["official"],
        "planner_us_a_record": each["planner"],
        "times_faster": each["official"] / each["planner"],
        "equal_chains": float(same),
    }


def official_chain(image_MD: np.ndarray, text_MD: np.ndarray, start: int) -> Tensor:
    """The order (M,) by the published algorithm (GRIT-VLP, algorithm 1)."""
    image, text = torch.from_numpy(image_MD), torch.from_numpy(text_MD)
    i2t_MM = (image @ text.T / TEMPERATURE).softmax(dim=1)
    t2i_MM = (text @ image.T / TEMPERATURE).softmax(dim=1)
    order, current = torch.empty(len(image), dtype=torch.int64), torch.tensor(start)
    for step in range(len(image)):
        order[step] = current
        row_M = (i2t_MM if step % 2 == 0 else t2i_MM)[current].clone()
        row_M[current] = 0
        for sim_MM in (i2t_MM, t2i_MM):
            sim_MM[current] = 0
            sim_MM[:, current] = 0
        current = row_M.argmax()
    return order


if __name__ == "__main__":
    main()
