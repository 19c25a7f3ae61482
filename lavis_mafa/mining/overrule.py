"""A person's label counts, whatever the judge says, in every output. Tested in tests/mining/test_overrule.py."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from lavis_mafa.core.pairs import CONNECTION, NEGATIVE
from lavis_mafa.mining.candidates import CandidatePairs
from lavis_mafa.mining.corpus import Corpus, packed, places, unpacked
from lavis_mafa.mining.engine import Mined
from lavis_mafa.mining.review import Labels

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]


def overruled(corpus: Corpus, mined: Mined, labels: Labels, p_L: Floats) -> tuple[Mined, dict[str, int]]:
    """Verdicts as people gave them, and what that changed.

    A candidate labelled 1 becomes a connection, one labelled 0 a negative; a pair labelled 1 that was no candidate
    becomes one, with similarity NaN and without ranks. P(match) stays the judge's.

    Args:
        p_L: P(match) of the L labelled pairs, by the judge.

    Returns:
        The corrected result with `by_person_K`, and counts: confirmed, connected (the judge had not), rejected (the
        judge had connected), added (were no candidates), annotated (are in the annotation, and stay).
    """
    own = np.isin(labels.key_L, packed(corpus.own_record_P, corpus.own_text_P))
    missing = labels.true_L & ~own & ~places(_keys(mined.candidates), labels.key_L)[1]
    pairs, p_K, verdict_K = _with(mined, labels.key_L[missing], p_L[missing])
    at_L, inside_L = places(_keys(pairs), labels.key_L)
    at, true = at_L[inside_L], labels.true_L[inside_L]
    before = verdict_K[at] == CONNECTION
    verdict_K[at] = np.where(true, CONNECTION, NEGATIVE)
    by_person_K = np.zeros(len(pairs), np.bool_)
    by_person_K[at] = True
    counts = {
        "confirmed": int((before == true).sum()),
        "connected": int((~before & true).sum()) - int(missing.sum()),
        "rejected": int((before & ~true).sum()),
        "added": int(missing.sum()),
        "annotated": int(own.sum()),
    }
    return replace(mined, candidates=pairs, p_K=p_K, verdict_K=verdict_K, by_person_K=by_person_K), counts


def _keys(pairs: CandidatePairs) -> Ints:
    return packed(pairs.record_K, pairs.text_K)


def _with(mined: Mined, key_A: Ints, p_A: Floats) -> tuple[CandidatePairs, Floats, NDArray[np.int8]]:
    """The candidates with further pairs in their places, negatives so far."""
    pairs, (record_A, text_A) = mined.candidates, unpacked(key_A)
    place_A = np.searchsorted(_keys(pairs), key_A)
    joined = CandidatePairs(
        np.insert(pairs.record_K, place_A, record_A),
        np.insert(pairs.text_K, place_A, text_A),
        np.insert(pairs.similarity_K, place_A, np.nan),
        np.insert(pairs.rank_of_text_K, place_A, 0),
        np.insert(pairs.rank_of_image_K, place_A, 0),
    )
    return joined, np.insert(mined.p_K, place_A, p_A), np.insert(mined.verdict_K, place_A, NEGATIVE)
