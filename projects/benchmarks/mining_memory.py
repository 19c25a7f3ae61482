"""Peak memory and time of mining's search and scoring over the size of the data, without a model.

    python projects/benchmarks/mining_memory.py --json projects/benchmarks/mining_memory.json

Each size is mined in a process of its own, five captions an image. Embeddings are points around 1,000 centres, as those
of a trained model are; a caption is its image's point with noise. Counted apart are anonymous memory, which the process
holds, and pages of mapped files (libraries, embeddings, scores on disk), which the kernel takes back when it needs
them.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

import numpy as np
import pyarrow as pa
from children import in_child
from machine import about

from lavis_mafa.core.settings import MafaSettings
from lavis_mafa.data.records import RecordTable
from lavis_mafa.mining import results
from lavis_mafa.mining.candidates import SearchSettings
from lavis_mafa.mining.corpus import Corpus
from lavis_mafa.mining.engine import Networks, Retriever, mine
from lavis_mafa.reports.table import write_json

CENTRES = 1000
EVERY_S = 0.01


class Peaks(threading.Thread):
    """The most anonymous and the most file-mapped memory (GiB) while it runs, sampled, and where the work then was.

    Linux alone; what came and went between two samples shows in the kernel's own VmHWM, the peak of both together.
    """

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.anonymous, self.mapped, self.at, self._done = 0.0, 0.0, "", threading.Event()

    def run(self) -> None:
        while not self._done.wait(EVERY_S):
            now = memory()
            self.mapped = max(self.mapped, now["RssFile"] + now["RssShmem"])
            if now["RssAnon"] > self.anonymous:
                self.anonymous = now["RssAnon"]
                self.at = _ours(sys._current_frames()[threading.main_thread().ident])

    def __enter__(self) -> Peaks:
        self.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._done.set()
        self.join()


def memory() -> dict[str, float]:
    """GiB of /proc/self/status by name."""
    status = Path("/proc/self/status").read_text()
    return {name: int(kb) / 2**20 for name, kb in re.findall(r"(Rss\w+|VmHWM):\s+(\d+) kB", status)}


def _ours(frame: FrameType | None) -> str:
    """The innermost function of the package, and its line."""
    while frame is not None:
        module = frame.f_globals.get("__name__", "")
        if module.startswith("lavis_mafa."):
            return f"{module.removeprefix('lavis_mafa.')}.{frame.f_code.co_name}, line {frame.f_lineno}"
        frame = frame.f_back
    return "the script"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, nargs="+", default=[10_000, 30_000, 100_000])
    for name, default in (("captions_an_image", 5), ("dim", 256), ("range_max", 20)):
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=default)
    parser.add_argument("--json", type=Path, required=True, help="the file of results")
    given = parser.parse_args()
    rows = [in_child(measured, n, given.captions_an_image, given.dim, given.range_max) for n in given.images]
    write_json(given.json, {**about(), "sizes": rows})


def measured(images: int, each: int, dim: int, range_max: int) -> dict[str, Any]:
    """Mining `images` images with `each` captions; memory in GiB."""
    began, before = time.perf_counter(), memory()
    with tempfile.TemporaryDirectory() as folder, Peaks() as peaks:
        corpus = Corpus.of(_table(images, each))
        mined = mine(corpus, _networks(dim), SearchSettings(range_max=range_max), MafaSettings(), Path(folder), "")
        results.write_connections(Path(folder) / "connections.parquet", corpus, mined, "synthetic")
    row = {
        "images": images,
        "captions": images * each,
        "candidates": len(mined.p_K),
        "recall_of_the_search": mined.recall,
        "seconds": time.perf_counter() - began,
        "anonymous_before": before["RssAnon"],
        "mapped_before": before["RssFile"],
        "anonymous_peak": peaks.anonymous,
        "anonymous_peak_in": peaks.at,
        "mapped_peak": peaks.mapped,
        "peak": memory()["VmHWM"],
    }
    print(row, flush=True)
    return row


def _table(images: int, each: int) -> RecordTable:
    rows = pa.table(
        {
            "image": [f"{image}.jpg" for image in range(images)],
            "caption": [[f"caption {n} of {image}" for n in range(each)] for image in range(images)],
        }
    )
    return RecordTable.from_rows(rows, dataset="synthetic")


def _networks(dim: int) -> Networks:
    centres = np.random.default_rng(0).normal(size=(CENTRES, dim)).astype(np.float32)

    def points(image_B: np.ndarray, spread: float, seed: int) -> np.ndarray:
        own = np.random.default_rng((1, int(image_B[0]))).normal(size=(len(image_B), dim))
        noise = np.random.default_rng((2, seed)).normal(size=own.shape)
        vectors = centres[image_B % CENTRES] + 0.5 * own + spread * noise
        return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)

    def texts(captions: Sequence[str]) -> np.ndarray:
        image_B = np.array([int(caption.split()[-1]) for caption in captions])
        return points(image_B, 0.5, int(image_B[0]))

    def score(record_K: np.ndarray, row_K: np.ndarray) -> np.ndarray:
        return ((record_K * 7919 + row_K * 104_729) % 1000 / 1000).astype(np.float32)

    retriever = Retriever(lambda records: points(records, 0.0, 0)[:, None], texts, "synthetic")
    return Networks((retriever,), score, "synthetic")


if __name__ == "__main__":
    main()
