"""Missing connections of a data set: embed → search → score → judge. Tested in tests/mining/test_engine.py.

Plain callables embed and score. Everything between is here; it streams, and resumes where it was killed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import starmap
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from lavis_mafa.common.hashing import digest
from lavis_mafa.core.connections import ConnectionStore
from lavis_mafa.core.pairs import judge
from lavis_mafa.core.settings import MafaSettings
from lavis_mafa.mining.candidates import CandidatePairs, SearchSettings, find_candidates
from lavis_mafa.mining.corpus import Corpus, packed, unpacked
from lavis_mafa.mining.resumable import filled
from lavis_mafa.mining.scoring import scored
from lavis_mafa.mining.search import Nearest, Shards, ShardSearch, Vectors

CODE = 1  # raised when the same input gives other embeddings, neighbours or scores
PART = 2048  # images or captions embedded between two marks of progress

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]
Network = Literal["embed_images", "embed_texts", "score"]  # a field of Networks


@dataclass(frozen=True)
class Networks:
    """The two models as plain callables, and what names them: hashes of weights and preprocessing.

    embed_images: records (B,) → (B, Q, D) of unit length, Q = 1 but for BLIP-2; embed_texts: raw captions → (B, D).
    score: records (K,), caption rows (K,) → P(match) (K,).
    """

    embed_images: Callable[[Ints], Vectors]
    embed_texts: Callable[[Sequence[str]], Vectors]
    score: Callable[[Ints, Ints], Floats]
    embedder_fingerprint: str
    scorer_fingerprint: str


class Engine(Protocol):
    """Where the work runs: in this process (Local) or on Ray (ray_engine.py). Results keep the order of the inputs."""

    def run(self, network: Network, inputs: Iterable[tuple[object, ...]]) -> Iterator[Vectors]:
        """The results of one network, called with each of the inputs."""
        ...

    def search_shards(self, search: ShardSearch, shards: Shards) -> Iterator[Nearest]: ...


@dataclass(frozen=True)
class Local:
    networks: Networks

    def run(self, network: Network, inputs: Iterable[tuple[object, ...]]) -> Iterator[Vectors]:
        return starmap(getattr(self.networks, network), inputs)

    def search_shards(self, search: ShardSearch, shards: Shards) -> Iterator[Nearest]:
        return starmap(search, shards)


@dataclass(frozen=True)
class Mined:
    """Candidates with P(match) and verdict (core/pairs.py), own pairs with P(match); `recall`: see candidates.Found."""

    candidates: CandidatePairs
    p_K: Floats
    verdict_K: NDArray[np.int8]
    own_similarity_P: Floats
    own_p_P: Floats
    recall: dict[str, float]
    store: ConnectionStore


def mine(
    corpus: Corpus,
    networks: Networks,
    search: SearchSettings,
    rule: MafaSettings,
    cache: Path,
    data_fingerprint: str,
    engine: Engine | None = None,
) -> Mined:
    """Mine the whole corpus. Files in `cache` are named by a hash of everything they depend on; engines share them."""
    engine = engine or Local(networks)
    data = f"{corpus.table.fingerprint}:{data_fingerprint}"
    embeddings = _hash(networks.embedder_fingerprint, data)
    key = _hash(embeddings, sorted(asdict(search).items()), len(corpus.hidden_H))
    vectors = embedded(corpus, engine, cache, embeddings)
    found = find_candidates(corpus, *vectors, search, cache, key, engine.search_shards)
    del vectors  # their pages
    scores = _hash(networks.scorer_fingerprint, data)
    store = ConnectionStore(cache / f"scores_{scores}", scores)
    pairs = found.candidates
    p_K, own_p_P = _scores(corpus, pairs, store, engine)
    verdict_K = judge(p_K, rule.low, rule.high).astype(np.int8)
    return Mined(pairs, p_K, verdict_K, found.own_similarity_P, own_p_P, found.recall, store)


def _scores(corpus: Corpus, pairs: CandidatePairs, store: ConnectionStore, engine: Engine) -> tuple[Floats, Floats]:
    """P(match) of candidates and of own pairs, in one pass over the images."""
    key_P = packed(corpus.own_record_P, corpus.own_text_P)
    key_S = np.union1d(packed(pairs.record_K, pairs.text_K), key_P)
    p_S = scored(store, partial(engine.run, "score"), *_rows(corpus, key_S), "pairs")
    at_K = np.searchsorted(key_S, packed(pairs.record_K, pairs.text_K))
    return p_S[at_K], p_S[np.searchsorted(key_S, key_P)]


def _rows(corpus: Corpus, key_S: Ints) -> tuple[Ints, Ints]:
    """Record and caption row of packed pairs, by which the store knows them."""
    record_S, text_S = unpacked(key_S)
    return record_S, corpus.text_row_T[text_S]


def embedded(corpus: Corpus, engine: Engine, cache: Path, key: str) -> tuple[Vectors, Vectors]:
    """Embeddings (N, Q, D) and (T, D), float16, memory-mapped."""

    def images(parts: list[range]) -> Iterator[Vectors]:
        return map(_float16, engine.run("embed_images", ((np.array(part),) for part in parts)))

    def texts(parts: list[range]) -> Iterator[Vectors]:
        return map(_float16, engine.run("embed_texts", ((corpus.texts(part.start, part.stop),) for part in parts)))

    images_NQD = filled(cache / f"images_{key}.npy", corpus.n_images, PART, images, "images")
    texts_TD = filled(cache / f"captions_{key}.npy", corpus.n_texts, PART, texts, "captions")
    return images_NQD, texts_TD


def _float16(rows: Vectors) -> Vectors:
    return rows.astype(np.float16)


def _hash(*parts: object) -> str:
    return digest(CODE, *parts)
