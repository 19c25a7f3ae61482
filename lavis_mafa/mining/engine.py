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

from lavis_mafa.common.cache import note_use
from lavis_mafa.common.hashing import digest
from lavis_mafa.core.connections import ConnectionStore
from lavis_mafa.core.pairs import judge
from lavis_mafa.core.settings import MafaSettings
from lavis_mafa.mining.candidates import CandidatePairs, Found, SearchSettings, find_candidates, united
from lavis_mafa.mining.corpus import Corpus, packed, unpacked
from lavis_mafa.mining.resumable import filled
from lavis_mafa.mining.scoring import scored
from lavis_mafa.mining.search import Nearest, Shards, ShardSearch, Vectors

CODE = 1  # raised when the same input gives other embeddings, neighbours or scores
PART = 2048  # images or captions embedded between two marks of progress

Ints = NDArray[np.int64]
NOTHING: Ints = np.empty(0, np.int64)
Floats = NDArray[np.float32]
Network = Literal["score"] | tuple[Literal["embed_images", "embed_texts"], int]  # int: of which retriever


@dataclass(frozen=True)
class Retriever:
    """Embeds images and captions: those near to each other become candidates.

    embed_images: records (B,) → (B, Q, D) of unit length, Q = 1 but for BLIP-2 and for several own captions;
    embed_texts: raw captions → (B, D). fingerprint: of weights and preprocessing. name: for reports. by_own_captions:
    an image is embedded by its own captions, so that the similarity of an annotated pair is 1 and says nothing.
    """

    embed_images: Callable[[Ints], Vectors]
    embed_texts: Callable[[Sequence[str]], Vectors]
    fingerprint: str
    name: str = "model"
    by_own_captions: bool = False


@dataclass(frozen=True)
class Networks:
    """The models as plain callables, and what names them: hashes of weights and preprocessing.

    retrievers: whoever proposes candidates; the similarity that is reported is the first one's.
    score: records (K,), caption rows (K,) → P(match) (K,). report: what the judge met in its inputs, so far.
    gives_cosines: its scores are cosines, no probabilities.
    """

    retrievers: tuple[Retriever, ...]
    score: Callable[[Ints, Ints], Floats]
    scorer_fingerprint: str
    report: Callable[[], dict[str, int]] = dict
    gives_cosines: bool = False

    def function(self, network: Network) -> Callable[..., Vectors]:
        """The callable that an engine runs under this name."""
        if network == "score":
            return self.score
        kind, number = network
        called: Callable[..., Vectors] = getattr(self.retrievers[number], kind)
        return called


class Engine(Protocol):
    """Where the work runs: in this process (Local) or on Ray (ray_engine.py). Results keep the order of the inputs."""

    def run(self, network: Network, inputs: Iterable[tuple[object, ...]]) -> Iterator[Vectors]:
        """The results of one network, called with each of the inputs."""
        ...

    def search_shards(self, search: ShardSearch, shards: Shards) -> Iterator[Nearest]: ...


@dataclass(frozen=True)
class Local:
    """Works in this process."""

    networks: Networks

    def run(self, network: Network, inputs: Iterable[tuple[object, ...]]) -> Iterator[Vectors]:
        return starmap(self.networks.function(network), inputs)

    def search_shards(self, search: ShardSearch, shards: Shards) -> Iterator[Nearest]:
        return starmap(search, shards)


@dataclass(frozen=True)
class Mined:
    """Candidates with P(match) and verdict (core/pairs.py), own pairs with P(match); `recall`: see candidates.Found.

    asked_p_A: P(match) of the further pairs that `mine` was given. by_person_K: verdicts that people gave; None: none.
    """

    candidates: CandidatePairs
    p_K: Floats
    verdict_K: NDArray[np.int8]
    own_similarity_P: Floats
    own_p_P: Floats
    recall: dict[str, float]
    store: ConnectionStore
    asked_p_A: Floats
    by_person_K: NDArray[np.bool_] | None = None


def mine(
    corpus: Corpus,
    networks: Networks,
    search: SearchSettings,
    rule: MafaSettings,
    cache: Path,
    data_fingerprint: str,
    engine: Engine | None = None,
    asked_A: Ints = NOTHING,
) -> Mined:
    """Mine a whole corpus: embed, search candidates, judge them.

    Args:
        corpus: the records.
        networks: who proposes candidates, and who judges them, as plain callables.
        search: how many candidates, and which are left out.
        rule: the bounds of the verdicts.
        cache: a folder; files in it are named by a hash of everything they depend on, and engines share them.
        data_fingerprint: what the images are, beside the records.
        engine: where the work is done; None: here.
        asked_A: packed pairs to score beside the candidates, such as those that people judged.

    Returns:
        Candidates with similarities, P(match) and verdicts.
    """
    engine = engine or Local(networks)
    data = f"{corpus.table.fingerprint}:{data_fingerprint}"
    found = _found(corpus, networks, search, cache, data, engine)
    scores = _hash(networks.scorer_fingerprint, data)
    store = ConnectionStore(note_use(cache / f"scores_{scores}", f"of {corpus.about}"), scores)
    pairs = found.candidates
    p_K, own_p_P, asked_p_A = _scores(corpus, pairs, asked_A, store, engine)
    verdict_K = judge(p_K, rule.low, rule.high).astype(np.int8)
    own_similarity_P = found.own_similarity_P
    if networks.retrievers[0].by_own_captions:
        own_similarity_P = np.full_like(own_similarity_P, np.nan)
    return Mined(pairs, p_K, verdict_K, own_similarity_P, own_p_P, found.recall, store, asked_p_A)


def _found(corpus: Corpus, networks: Networks, search: SearchSettings, cache: Path, data: str, engine: Engine) -> Found:
    """The candidates of every retriever."""
    found: dict[str, Found] = {}
    for number, retriever in enumerate(networks.retrievers):
        embeddings = _embeddings(corpus, retriever, data)
        key = _hash(embeddings, sorted(asdict(search).items()), len(corpus.hidden_H))
        about = f"{retriever.name}, {corpus.about}"
        vectors = embedded(corpus, engine, cache, embeddings, number, about)
        found[retriever.name] = find_candidates(corpus, *vectors, search, cache, key, engine.search_shards)
        if not number:
            first = vectors
    return united(found, *first)


def _scores(
    corpus: Corpus, pairs: CandidatePairs, asked_A: Ints, store: ConnectionStore, engine: Engine
) -> tuple[Floats, ...]:
    """P(match) of candidates, of own pairs and of the pairs asked for, in one pass over the images."""
    keys = packed(pairs.record_K, pairs.text_K), packed(corpus.own_record_P, corpus.own_text_P), asked_A
    key_S = np.unique(np.concatenate(keys))
    p_S = scored(store, partial(engine.run, "score"), *_rows(corpus, key_S), "pairs")
    return tuple(p_S[np.searchsorted(key_S, key)] for key in keys)


def _rows(corpus: Corpus, key_S: Ints) -> tuple[Ints, Ints]:
    """Record and caption row of packed pairs, by which the store knows them."""
    record_S, text_S = unpacked(key_S)
    return record_S, corpus.text_row_T[text_S]


def stored_embeddings(
    corpus: Corpus, networks: Networks, cache: Path, data_fingerprint: str
) -> tuple[Vectors, Vectors]:
    """What the first retriever made of images and captions, as `mine` left it in the cache.

    Args:
        corpus, networks, cache, data_fingerprint: as `mine` was given them.

    Returns:
        Images (N, Q, D) and captions (T, D), float16, memory-mapped.
    """
    data = f"{corpus.table.fingerprint}:{data_fingerprint}"
    return embedded(corpus, Local(networks), cache, _embeddings(corpus, networks.retrievers[0], data))


def _embeddings(corpus: Corpus, retriever: Retriever, data: str) -> str:
    return _hash(retriever.fingerprint, data, corpus.text_row_T)


def embedded(
    corpus: Corpus, engine: Engine, cache: Path, key: str, retriever: int = 0, about: str = ""
) -> tuple[Vectors, Vectors]:
    """A retriever's embeddings, computed or read from the cache.

    Args:
        corpus: the records.
        engine: where the work is done.
        cache: the folder.
        key: names the embeddings in it.
        retriever: its place in Networks.retrievers.
        about: what the progress bar adds.

    Returns:
        Images (N, Q, D) and captions (T, D), float16, memory-mapped.
    """

    def images(parts: list[range]) -> Iterator[Vectors]:
        return map(_float16, engine.run(("embed_images", retriever), ((np.array(part),) for part in parts)))

    def texts(parts: list[range]) -> Iterator[Vectors]:
        captions = ((corpus.texts(part.start, part.stop),) for part in parts)
        return map(_float16, engine.run(("embed_texts", retriever), captions))

    files = (note_use(cache / f"{kind}_{key}.npy", about) for kind in ("images", "captions"))
    images_NQD = filled(next(files), corpus.n_images, PART, images, "images")
    texts_TD = filled(next(files), corpus.n_texts, PART, texts, "captions")
    return images_NQD, texts_TD


def _float16(rows: Vectors) -> Vectors:
    return rows.astype(np.float16)


def _hash(*parts: object) -> str:
    return digest(CODE, *parts)
