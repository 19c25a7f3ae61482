"""Connections over the whole batch: every pair is judged, not the hardest of every anchor alone.

MAFA asks about one pair an anchor because a matching network is dear (arXiv 2312.06112, section 3.3). Where a score
costs a dot product or a lookup, all B x B pairs can be judged, and no false negative that the judge knows is left in
the ITC. Tested in tests/core/test_whole_batch.py.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lavis_mafa.core.pairs import CONNECTION, Candidates, SettledPairs, verdict_counts


def every_pair(excluded_BB: Tensor) -> Candidates:
    """Every pair that is not excluded, as a candidate of both its ends, texts first; none has a spare."""
    image_N, text_N = (~excluded_BB).nonzero(as_tuple=True)
    image_C, text_C = image_N.repeat(2), text_N.repeat(2)
    none_C = torch.full_like(image_C, -1)
    from_text_C = torch.arange(len(image_C), device=image_C.device) < len(image_N)
    return Candidates(image_C, text_C, none_C, none_C, from_text_C)


def settle_batch(
    candidates: Candidates, verdict_BB: Tensor, negatives: Candidates, matches: Candidates | None
) -> tuple[SettledPairs, SettledPairs, dict[str, int]]:
    """Settled pairs from verdicts on all pairs of a batch. An ambiguous pair stays a plain column of the ITC.

    Args:
        candidates: of every_pair.
        verdict_BB: at [image, text], of pairs.judge.
        negatives: an anchor's most similar pair of verdict NEGATIVE.
        matches: its most similar one of verdict CONNECTION; None where matches are no positives, of the ITC either.

    Returns:
        (pairs of ITM and the text loss, pairs of the ITC, counts). Counts are rows, as of pairs.settle: every pair
        counts twice, once for either end.
    """
    verdict_C = verdict_BB[candidates.image_C, candidates.text_C]
    counts = verdict_counts(verdict_C, torch.zeros_like(verdict_C, dtype=torch.bool))
    if matches is None:
        return _labelled((negatives, 0)), _labelled((negatives, 0)), counts
    match_C = verdict_C == CONNECTION
    columns = candidates.image_C[match_C], candidates.text_C[match_C], candidates.from_text_C[match_C]
    itc = SettledPairs(*columns[:2], torch.ones_like(columns[0]), columns[2])
    return _labelled((negatives, 0), (matches, 1)), itc, counts


def _labelled(*parts: tuple[Candidates, int]) -> SettledPairs:
    """The pairs of every part, with its label."""
    return SettledPairs(
        torch.cat([pairs.image_C for pairs, _ in parts]),
        torch.cat([pairs.text_C for pairs, _ in parts]),
        torch.cat([torch.full_like(pairs.image_C, label) for pairs, label in parts]),
        torch.cat([pairs.from_text_C for pairs, _ in parts]),
    )
