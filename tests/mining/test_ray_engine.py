"""Both engines give the same, on a local cluster of two workers."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lavis_mafa.core.settings import MafaSettings
from lavis_mafa.mining import engine, results, scoring, search
from lavis_mafa.mining.candidates import SearchSettings
from lavis_mafa.mining.corpus import Corpus
from lavis_mafa.mining.engine import Mined, Networks, mine
from lavis_mafa.mining.ray_engine import RayEngine

from .conftest import ROWS, World, table

NUMBERS = ["two", "three", "four", "five", "six", "seven", "eight", "nine"]
MORE = [*ROWS, *((f"{n}.jpg", [f"{n} dogs", f"{n} cats", "an animal"]) for n in NUMBERS)]


class Noting(World):
    """Writes down which process was asked; gives vectors of whole numbers, so that many similarities tie."""

    def __init__(self, notes: Path) -> None:
        super().__init__()
        self.notes = notes

    def _call(self) -> None:
        (self.notes / f"{os.getpid()}").touch()

    @staticmethod
    def _vectors(what: str, count: int) -> Any:
        return np.random.default_rng(list(what.encode())).integers(-1, 2, size=(count, 8)).astype(np.float32)

    def __call__(self) -> Networks:
        return self.networks()


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    ray = pytest.importorskip("ray") if os.environ.get("CI", "").lower() != "true" else __import__("ray")
    ray.cloudpickle.register_pickle_by_value(sys.modules[World.__module__])
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    yield ray
    ray.shutdown()


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several parts and shards of a dozen images."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(engine, "PART", 5)
    monkeypatch.setattr(scoring, "PART", 30)
    monkeypatch.setattr(search.nearest_items, "__defaults__", ("flat", 6, *search.nearest_items.__defaults__[2:]))


def mined(folder: Path, networks: Networks, on: Any = None) -> Mined:
    corpus = Corpus.of(table(MORE))
    found = mine(corpus, networks, SearchSettings(range_max=4), MafaSettings(), folder / "cache", "", on)
    results.write_connections(folder / "connections.parquet", corpus, found, found.store.fingerprint)
    return found


def test_ray_gives_what_the_local_engine_gives(cluster: Any, tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    for folder in (here, there):
        folder.mkdir()
    local, build = mined(here, Noting(here)()), Noting(there)
    ray_engine = RayEngine(build, build())
    assert ray_engine.workers == 2
    on_ray = mined(there, build(), ray_engine)
    for name in vars(local.candidates):
        np.testing.assert_array_equal(getattr(local.candidates, name), getattr(on_ray.candidates, name))
    tied = np.unique(local.candidates.similarity_K, return_counts=True)[1]
    assert tied.max() > 10, "equal similarities, so that the order of ties is tested"
    np.testing.assert_array_equal(local.own_p_P, on_ray.own_p_P)
    assert local.recall == on_ray.recall
    files = [sorted(path.name for path in (folder / "cache").iterdir()) for folder in (here, there)]
    assert files[0] == files[1]
    for name in ["connections.parquet", *(f"cache/{name}" for name in files[0] if name.endswith(".npy"))]:
        assert (here / name).read_bytes() == (there / name).read_bytes(), name
    asked = {path.name for path in there.iterdir() if path.name.isdigit()}
    assert len(asked) >= 2 and str(os.getpid()) not in asked


def test_what_a_worker_finds_wrong_is_reported_here(cluster: Any, tmp_path: Path) -> None:
    build = Noting(tmp_path)

    def elsewhere() -> Networks:
        return replace(build(), scorer_fingerprint="other weights")

    with pytest.raises(ValueError, match="different weights from this machine"):
        mined(tmp_path, build(), RayEngine(elsewhere, build()))
    assert not (tmp_path / "connections.parquet").exists()


def test_without_ray_the_remedy_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    build = Noting(tmp_path)
    with pytest.raises(ValueError, match=r'pip install -e "\.\[ray\]"'):
        RayEngine(build, build())
