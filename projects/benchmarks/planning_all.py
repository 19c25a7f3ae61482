"""Time and memory to plan an epoch with M = all, and how hard its batches are.

    python projects/benchmarks/planning_all.py --json projects/benchmarks/planning_all.json

Each N is planned by GritPlanner from an embedding store on disk, whatever it takes included: reading, coarse cells
(training and assignment; at every N, where a run's `auto` takes an exact index up to 50,000), chain, shuffling. Once,
or the median of `--repeats`; a first plan is not counted, as the first search of a process loads FAISS. Beside its
hardness (mean similarity of an image to the hardest other text of its batch) stand those of exact chains through
M = 4800 and M = 48,000 random records of the same N. A power law is fitted over the N that are too many for the dense
chain. The embeddings are seeded; at exact M = 4800 they are as hard as a trained model's (synthetic.py).
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import synthetic
from machine import about, memory, restart_peak

from lavis_mafa.core.chain import DENSE_LIMIT
from lavis_mafa.core.grit import GritPlanner
from lavis_mafa.reports.table import write_json

matplotlib.use("Agg")
import matplotlib.pyplot as plt

SIZES = [10_000, 20_000, 50_000, 100_000, 200_000, 500_000, 1_000_000]
TARGET_US, WARM_UP = 60, 20_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, nargs="+", default=SIZES)
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--run", type=Path, help="a trained run's folder; default: the hardness of Flickr8k's")
    parser.add_argument("--exact", type=int, default=48_000, help="M of the exact chain, walked at the last N alone")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--folder", help="where the stores are written, and removed; default: the temporary folder")
    parser.add_argument("--json", type=Path, required=True, help="the file of results; the plot lies beside it")
    given = parser.parse_args()
    target = synthetic.hardness_of_run(given.run) if given.run else synthetic.TRAINED
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        decay = synthetic.fitted_decay(target, given.dim, Path(folder))
        print(f"exact M = 4800: trained {target:.4f}, synthetic with variances falling as i^-{decay:.2f}", flush=True)
        planned(Path(folder), WARM_UP, given.dim, decay, repeats=1)
        rows = [planned(Path(folder), size, given.dim, decay, given.repeats) for size in sorted(given.records)]
        found = synthetic.stored(Path(folder), max(given.records), given.dim, decay)
        exact = {"search_space": given.exact, "hardness": synthetic.exact_hardness(found, given.exact)}
    fit = fitted(rows)
    print(exact, fit)
    result = {"trained_hardness": target, "decay": decay, "all": rows, "exact": exact, "fit": fit}
    write_json(given.json, {**about(), **result})
    if fit:
        draw(rows, fit, given.json.with_suffix(".png"))


def planned(folder: Path, records: int, dim: int, decay: float, repeats: int) -> dict[str, Any]:
    """An epoch of `records` planned with M = all."""
    found = synthetic.stored(folder, records, dim, decay)
    planner = GritPlanner(synthetic.BATCH, backend="ivf")
    restart_peak()
    times = []
    for _ in range(repeats):
        began, cpu = time.perf_counter(), time.process_time()
        plan = planner.plan(1, found, records)
        times.append((time.perf_counter() - began, time.process_time() - cpu))
    seconds, cpu_seconds = np.median(times, axis=0)
    peak = memory()
    assert (np.bincount(plan.order_N, minlength=records) == 1).all()
    row = {
        "records": records,
        "us_a_record": 1e6 * seconds / records,
        "cpu_us_a_record": 1e6 * cpu_seconds / records,
        "all_us_a_record": [1e6 * each / records for each, _ in times],
        "peak_mb": peak["peak_mb"],
        "hardness": synthetic.hardness(found, plan.order_N),
        "hardness_of_exact_4800": synthetic.exact_hardness(found, synthetic.SPACE),
    }
    print(row, flush=True)
    return row


def fitted(rows: list[dict[str, Any]]) -> dict[str, float]:
    """seconds = factor · N^exponent, least squares of the logarithms, over the N that are not walked densely."""
    rows = [row for row in rows if row["records"] > DENSE_LIMIT]
    if len(rows) < 2:
        return {}
    n, each = (np.array([row[name] for row in rows]) for name in ("records", "us_a_record"))
    exponent, factor = np.polyfit(np.log(n), np.log(n * each / 1e6), 1)
    return {"exponent": float(exponent), "factor": float(np.exp(factor))}


def draw(rows: list[dict[str, Any]], fit: dict[str, float], path: Path) -> None:
    n, each = (np.array([row[name] for row in rows]) for name in ("records", "us_a_record"))
    figure, axes = plt.subplots(figsize=(5, 3.5), layout="constrained")
    axes.loglog(n, n * each / 1e6, "o", label="measured")
    walked = n[n > DENSE_LIMIT]
    axes.loglog(walked, fit["factor"] * walked ** fit["exponent"], label=f"fit: N^{fit['exponent']:.2f}")
    axes.loglog(n, n * TARGET_US / 1e6, ":", label=f"{TARGET_US} µs a record")
    axes.set(xlabel="records N", ylabel="seconds to plan an epoch, M = all")
    axes.legend()
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
