"""Peak memory and time of mining's search and scoring on synthetic embeddings, without any model.

    python projects/benchmarks/mining_memory.py --images 100000 --captions 500000 --dim 256

Embeddings are points around 1,000 centres, as those of a trained model are; a caption is its image's point with noise.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from lavis_mafa.core.settings import MafaSettings
from lavis_mafa.data.records import RecordTable
from lavis_mafa.mining import results
from lavis_mafa.mining.candidates import SearchSettings
from lavis_mafa.mining.corpus import Corpus
from lavis_mafa.mining.engine import Networks, mine

CENTRES = 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("images", 100_000), ("captions", 500_000), ("dim", 256), ("range_max", 20)):
        parser.add_argument(f"--{name}", type=int, default=default)
    given = parser.parse_args()
    began, each = time.perf_counter(), given.captions // given.images
    corpus = Corpus.of(_table(given.images, each))
    settings = SearchSettings(range_max=given.range_max)
    with tempfile.TemporaryDirectory() as folder:
        mined = mine(corpus, _networks(given.dim), settings, MafaSettings(), Path(folder), "")
        results.write_connections(Path(folder) / "connections.parquet", corpus, mined, "synthetic")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{len(mined.p_K):,} candidates, recall {mined.recall}")
    print(f"peak {peak:.2f} GiB (torch alone takes {_TORCH:.2f}), {time.perf_counter() - began:.0f} s")


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

    return Networks(lambda records: points(records, 0.0, 0)[:, None], texts, score, "synthetic", "synthetic")


_TORCH = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20

if __name__ == "__main__":
    main()
