"""Candidate pairs: near in either direction, and not known to match.

Words as in sentence-transformers' mine_hard_negatives. Tested in tests/mining/test_engine.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lavis_mafa.common.cache import note_use
from lavis_mafa.core.neighbors import BACKENDS, load_faiss
from lavis_mafa.mining.corpus import Corpus, packed, unpacked
from lavis_mafa.mining.search import (
    Known,
    Nearest,
    SearchShards,
    Vectors,
    nearest_items,
    recall_of_candidates,
    similarity_of_pairs,
)

EXACT_PRODUCTS = 5e12  # multiplications of one exact pass in one direction: some three minutes on two cores

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class SearchSettings:
    """Which pairs Con-D scores; of several retrievers each by its own similarity.

    range_max: the k of the k nearest, known positives not counted; range_min: skip that many of the nearest.
    min_score, max_score: leave out pairs of a smaller, of a larger ITC similarity. absolute_margin, relative_margin:
    leave out pairs whose similarity is above that of the anchor's best own pair less the margin, less this share of its
    magnitude (as sentence-transformers since its #3821). index: backend of core/neighbors.py; auto is exact where that
    is affordable. nprobe: cells that an inexact search (IVF) looks into.

    Raises:
        ValueError: a value that is not allowed.
    """

    range_min: int = 0
    range_max: int = 20
    min_score: float | None = None
    max_score: float | None = None
    absolute_margin: float | None = None
    relative_margin: float | None = None
    index: str = "auto"
    nprobe: int = 64

    def __post_init__(self) -> None:
        for name in ("range_min", "range_max", "nprobe"):
            if not _is_number(getattr(self, name), int):
                raise ValueError(f"{name} is {getattr(self, name)!r}; it must be a whole number")
        for name in ("min_score", "max_score", "absolute_margin", "relative_margin"):
            if getattr(self, name) is not None and not _is_number(getattr(self, name), (int, float)):
                raise ValueError(f"{name} is {getattr(self, name)!r}; it must be a number or null")
        if not 0 <= self.range_min < self.range_max:
            raise ValueError(
                f"range_min {self.range_min}, range_max {self.range_max}: they must satisfy 0 <= range_min < range_max"
            )
        if self.min_score is not None and self.max_score is not None and self.min_score > self.max_score:
            raise ValueError(f"min_score {self.min_score} is above max_score {self.max_score}, which leaves no pair")
        if self.relative_margin is not None and not 0 <= self.relative_margin <= 1:
            raise ValueError(f"relative_margin is {self.relative_margin}; it must be a number in [0, 1] or null")
        if self.index not in BACKENDS:
            raise ValueError(f"index is {self.index!r}; choose one of {', '.join(BACKENDS)}")
        if self.nprobe < 1:
            raise ValueError(f"nprobe is {self.nprobe}; it must be a whole number, at least 1")

    def backend(self, anchors: Vectors, items: Vectors) -> str:
        """`index`; of auto the exact search where its products are few enough (FAISS decides otherwise)."""
        products = np.prod(anchors.shape, dtype=float) * items.shape[0] * items.shape[1]
        exact = self.index == "auto" and products <= EXACT_PRODUCTS and load_faiss() is not None
        return "flat" if exact else self.index


def _is_number(value: object, kind: type | tuple[type, ...]) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool) and value == value  # NaN is none


@dataclass(frozen=True)
class CandidatePairs:
    """K pairs, each once, sorted by record and text. Ranks count from 1; 0: not among the nearest in that direction.

    20 bytes a pair: there are tens of millions.
    """

    record_K: NDArray[np.int32]
    text_K: NDArray[np.int32]
    similarity_K: Floats
    rank_of_text_K: NDArray[np.int32]  # among the texts of the image
    rank_of_image_K: NDArray[np.int32]  # among the images of the text

    def __len__(self) -> int:
        return len(self.record_K)


@dataclass(frozen=True)
class Found:
    """What a search found, and how well: candidates, and the similarity of the P annotated pairs."""

    candidates: CandidatePairs
    own_similarity_P: Floats
    recall: dict[str, float]  # of the exact top k, by direction, over a sample


def find_candidates(
    corpus: Corpus,
    images_NQD: Vectors,
    texts_TD: Vectors,
    settings: SearchSettings,
    folder: Path,
    key: str,
    search_shards: SearchShards,
) -> Found:
    """Search both directions over the whole set.

    Args:
        corpus: the records, and what is known to match.
        images_NQD: (N, Q, D) of unit length.
        texts_TD: (T, D) of unit length.
        settings: how many, and which are left out.
        folder: the cache.
        key: names the embeddings and settings in it.
        search_shards: runs the search, here or on other machines.
    """
    texts_T1D = texts_TD[:, None, :]
    record_P, text_P = corpus.own_record_P, corpus.own_text_P
    own_similarity_P = similarity_of_pairs(images_NQD, texts_T1D, record_P, text_P)
    recall = {}

    def side(name: str, anchors: Vectors, items: Vectors, anchor_P: Ints, item_P: Ints) -> _Side:
        known = Known.of(anchor_P, item_P, len(items))
        path, k = note_use(folder / f"{name}_{key}.npz", f"the nearest, {corpus.about}"), settings.range_max
        backend = settings.backend(anchors, items)
        near = nearest_items(
            anchors, items, k, known, path, backend, search_shards=search_shards, nprobe=settings.nprobe
        )
        recall[name] = recall_of_candidates(anchors, items, near, known)
        best_own_A = np.full(len(anchors), -np.inf, np.float32)
        np.maximum.at(best_own_A, anchor_P, own_similarity_P)
        return _kept(near, best_own_A, settings, anchors_are_records=name == "texts")

    by_image = side("texts", images_NQD, texts_T1D, record_P, text_P)
    by_text = side("images", texts_T1D, images_NQD, text_P, record_P)
    return Found(_united(by_image, by_text), own_similarity_P, recall)


@dataclass(frozen=True)
class _Side:
    """Pairs found in one direction: key (packed record and text), similarity, rank."""

    key_L: Ints
    similarity_L: Floats
    rank_L: NDArray[np.int32]


def _kept(near: Nearest, best_own_A: Floats, settings: SearchSettings, anchors_are_records: bool) -> _Side:
    """The pairs that the settings let through."""
    rank_Ak = np.broadcast_to(np.arange(1, near.item_Ak.shape[1] + 1, dtype=np.int32), near.item_Ak.shape)
    kept = (near.item_Ak >= 0) & (rank_Ak > settings.range_min)
    has_own_A1 = np.isfinite(best_own_A)[:, None]  # otherwise there is nothing to measure a margin from
    if settings.min_score is not None:
        kept &= near.similarity_Ak >= settings.min_score
    if settings.max_score is not None:
        kept &= near.similarity_Ak <= settings.max_score
    if settings.absolute_margin is not None:
        kept &= ~has_own_A1 | (near.similarity_Ak <= best_own_A[:, None] - settings.absolute_margin)
    if settings.relative_margin is not None:
        own_A1 = np.where(has_own_A1, best_own_A[:, None], 0)
        highest_A1 = own_A1 - settings.relative_margin * np.abs(own_A1)
        kept &= ~has_own_A1 | (near.similarity_Ak <= highest_A1)
    anchor_L, item_L = np.repeat(np.arange(len(kept)), kept.sum(axis=1)), near.item_Ak[kept]
    key_L = packed(anchor_L, item_L) if anchors_are_records else packed(item_L, anchor_L)
    return _Side(key_L, near.similarity_Ak[kept], rank_Ak[kept])


def united(found: Mapping[str, Found], images_NQD: Vectors, texts_TD: Vectors) -> Found:
    """The candidates of all retrievers, by name; similarities are the first one's, whose vectors are given.

    A rank is the best that any of them gave.
    """
    if len(found) == 1:
        return next(iter(found.values()))
    each = [one.candidates for one in found.values()]
    key_K = np.unique(np.concatenate([packed(one.record_K, one.text_K) for one in each]))
    ranks_2K = np.zeros((2, len(key_K)), np.int32)
    for one in each:
        at = np.searchsorted(key_K, packed(one.record_K, one.text_K))
        for rank_K, rank in zip(ranks_2K, (one.rank_of_text_K, one.rank_of_image_K), strict=True):
            rank_K[at] = np.where((rank > 0) & ((rank_K[at] == 0) | (rank < rank_K[at])), rank, rank_K[at])
    record_K, text_K = unpacked(key_K)
    similarity_K = similarity_of_pairs(images_NQD, texts_TD[:, None, :], record_K, text_K)
    recall = {f"{name} {side}": value for name, one in found.items() for side, value in one.recall.items()}
    own_similarity_P = next(iter(found.values())).own_similarity_P
    pairs = CandidatePairs(record_K.astype(np.int32), text_K.astype(np.int32), similarity_K, *ranks_2K)
    return Found(pairs, own_similarity_P, recall)


def _united(by_image: _Side, by_text: _Side) -> CandidatePairs:
    """Pairs found by image and by text, each once; of two similarities the larger (an IVF search may miss one)."""
    key_K = np.union1d(by_image.key_L, by_text.key_L)
    similarity_K = np.full(len(key_K), -np.inf, np.float32)

    def rank_of(side: _Side) -> NDArray[np.int32]:
        at_L, rank_K = np.searchsorted(key_K, side.key_L), np.zeros(len(key_K), np.int32)
        similarity_K[at_L] = np.maximum(similarity_K[at_L], side.similarity_L)
        rank_K[at_L] = side.rank_L
        return rank_K

    ranks = rank_of(by_image), rank_of(by_text)
    text_K, record_K = key_K.view("<i4").reshape(-1, 2).T.copy()  # a key's low and high half
    return CandidatePairs(record_K, text_K, similarity_K, *ranks)
