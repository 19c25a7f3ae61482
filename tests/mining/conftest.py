"""A small data set whose connections are known: image and caption i show the numbers of WORLD[i]."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from lavis_mafa.core.settings import MafaSettings
from lavis_mafa.data.records import RecordTable
from lavis_mafa.mining.candidates import SearchSettings
from lavis_mafa.mining.corpus import Corpus
from lavis_mafa.mining.engine import Mined, Networks, Retriever, mine

ROWS = [
    ("a.jpg", ["a dog runs", "an animal"]),
    ("b.jpg", ["a cat sits", "An  Animal"]),
    ("c.jpg", ["a red car"]),
    ("d.jpg", ["a dog runs"]),
]


def table(rows: list[tuple[str, list[str]]]) -> RecordTable:
    columns = {"image": [image for image, _ in rows], "caption": [captions for _, captions in rows]}
    return RecordTable.from_rows(pa.table(columns), dataset="test")


class World:
    """Embeddings and scores that hash their input; counts its calls, and dies at a given one."""

    def __init__(self, dies_at: int | None = None, queries: int = 3) -> None:
        self.calls, self.dies_at, self.queries = 0, dies_at, queries

    def networks(self, embedder: str = "e", scorer: str = "s") -> Networks:
        return Networks((Retriever(self.images, self.texts, embedder),), self.score, scorer)

    def _call(self) -> None:
        self.calls += 1
        if self.calls == self.dies_at:
            raise KeyboardInterrupt

    def images(self, records: Any) -> Any:
        self._call()
        return np.stack([self._vectors(f"image {record}", self.queries) for record in records])

    def texts(self, captions: Any) -> Any:
        self._call()
        return np.stack([self._vectors(caption, 1)[0] for caption in captions])

    def score(self, record_K: Any, row_K: Any) -> Any:
        self._call()
        return np.array(
            [(record * 37 + row * 11) % 101 / 100 for record, row in zip(record_K, row_K, strict=True)], np.float32
        )

    @staticmethod
    def _vectors(what: str, count: int) -> Any:
        rng = np.random.default_rng(list(what.encode()))
        vectors = rng.normal(size=(count, 8)).astype(np.float32)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.fixture
def corpus() -> Corpus:
    return Corpus.of(table(ROWS))


@pytest.fixture
def mined(corpus: Corpus, tmp_path: Path) -> Mined:
    return mine(corpus, World().networks(), SearchSettings(range_max=3), MafaSettings(), tmp_path / "cache", "")
