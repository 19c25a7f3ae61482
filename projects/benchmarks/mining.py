"""Mining of growing data sets by the real command: pairs scored per second, and memory against data size.

    python projects/benchmarks/mining.py --json projects/benchmarks/mining.json

Scenes and the packaged Con-D (projects/mafa/mine/mine_scenes.yaml), each size in a process of its own. The memory of
larger sets is mining_memory.py's, on synthetic embeddings.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

from children import arguments, in_child, scoring_timed
from machine import about, memory

from lavis_mafa.mining_job import job as mine
from lavis_mafa.reports.table import write_json

CONFIG = "projects/mafa/mine/mine_scenes.yaml"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--records", type=int, nargs="+", default=[500, 1000, 2000, 4000], help="images; two captions each"
    )
    parser.add_argument("--json", type=Path, required=True, help="the file of results")
    given = parser.parse_args()
    rows = [in_child(mined, records) for records in given.records]
    write_json(given.json, {**about(), "sizes": rows})
    for row in rows:
        print(row)


def mined(records: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder, scoring_timed() as taken:
        arguments(
            CONFIG, [f"run.output_dir={folder}", f"datasets.scenes.splits.train.n={records}", "run.gallery_size=0"]
        )
        began = time.perf_counter()
        mine.main()
        seconds = time.perf_counter() - began
    scoring_seconds, pairs = taken[0]
    return {
        "records": records,
        "pairs": int(pairs),
        "seconds": seconds,
        "pairs_a_second_scoring": pairs / scoring_seconds,
        "pairs_a_second_in_all": pairs / seconds,
        "peak_mb": memory()["peak_mb"],
    }


if __name__ == "__main__":
    main()
