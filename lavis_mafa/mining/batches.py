"""How often a candidate pair meets in a training batch, where it is a false negative if it matches.

Tested in tests/mining/test_batches.py.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lavis_mafa.core.grit import GritPlanner
from lavis_mafa.core.plan import Plan
from lavis_mafa.mining.candidates import CandidatePairs
from lavis_mafa.mining.corpus import Corpus
from lavis_mafa.mining.search import Vectors

Ints = NDArray[np.int64]
Doubles = NDArray[np.float64]


def meetings(corpus: Corpus, pairs: CandidatePairs, batch_size: int, plan: Plan | None = None) -> Doubles:
    """How often image and caption of each candidate are in one batch.

    A batch has batch_size records, and of each the image and one of its captions, drawn evenly. A caption that several
    records have meets the image by each.

    Args:
        corpus: the records.
        pairs: K candidates.
        batch_size: records a batch.
        plan: of GRIT; None: random batches.

    Returns:
        (K,) means over the batches.
    """
    text_C = _texts_of_captions(corpus)
    record_C = corpus.table.record_of_caption
    share_C = 1 / np.diff(corpus.table.offsets)[record_C]
    order = np.argsort(text_C, kind="stable")
    start_T = np.searchsorted(text_C[order], np.arange(corpus.n_texts + 1))
    owners_K = np.diff(start_T)[pairs.text_K]
    pair_O = np.repeat(np.arange(len(pairs)), owners_K)  # a row for each record that has the caption
    within_O = np.arange(len(pair_O)) - np.repeat(owners_K.cumsum() - owners_K, owners_K)
    caption_O = order[start_T[pairs.text_K][pair_O] + within_O]
    together_O = _together(pairs.record_K[pair_O], record_C[caption_O], corpus.n_images, batch_size, plan)
    met_K: Doubles = np.bincount(pair_O, together_O * share_C[caption_O], len(pairs))
    return met_K


def _together(one_O: NDArray[np.integer], other_O: Ints, n: int, batch_size: int, plan: Plan | None) -> Doubles:
    """(O,) how often two records are in one batch, in the mean over the batches; a record does not meet itself."""
    if plan is None:
        return np.where(one_O == other_O, 0.0, batch_size * (batch_size - 1) / (n * max(n - 1, 1)))
    batch_N = np.full(n, -1)
    batches_KB = plan.batches_of_all
    batch_N[batches_KB.ravel()] = np.repeat(np.arange(len(batches_KB)), batches_KB.shape[1])
    met_O = (one_O != other_O) & (batch_N[one_O] == batch_N[other_O]) & (batch_N[one_O] >= 0)
    shares_O: Doubles = met_O / len(batches_KB)
    return shares_O


def grit_plan(
    corpus: Corpus, images_NQD: Vectors, texts_TD: Vectors, batch_size: int, search_space: int | str, seed: int
) -> Plan:
    """An epoch of GRIT batches on the embeddings that mining made.

    Args:
        corpus: the records.
        images_NQD: (N, Q, D); of a record's image the query that fits its first caption best is taken.
        texts_TD: (T, D).
        batch_size: records a batch.
        search_space: M, or "all".
        seed: of the search spaces and of where chains start.
    """
    first_N = _texts_of_captions(corpus)[corpus.table.offsets[:-1]]
    text_ND = np.asarray(texts_TD[first_N], np.float32)
    image_ND = np.empty_like(text_ND)
    for start in range(0, len(text_ND), 4096):
        rows = slice(start, start + 4096)
        image_nQD = np.asarray(images_NQD[rows], np.float32)
        best_n = np.einsum("nqd,nd->nq", image_nQD, text_ND[rows]).argmax(axis=1)
        image_ND[rows] = image_nQD[np.arange(len(best_n)), best_n]
    planner = GritPlanner(batch_size, search_space=search_space, seed=seed, siblings="apart")
    return planner.plan(1, (image_ND, text_ND), corpus.n_images, distinct_by=corpus.table.image_id)


def _texts_of_captions(corpus: Corpus) -> Ints:
    """(C,) the text number of every caption row."""
    id_T = corpus.table.text_id[corpus.text_row_T]
    order = np.argsort(id_T)
    text_C: Ints = order[np.searchsorted(id_T, corpus.table.text_id, sorter=order)]
    return text_C
