"""Hardest and spare pairs of a batch, and what becomes of them once scored. Tested in tests/core/test_pairs.py.

A pair is (image position, text position) in the local batch of B. Its anchor is the text where the hardest image of
a text was asked for (t2i), the image where the hardest text of an image was asked for (i2t). Rows anchored at texts
come first, as in LAVIS' ITM batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

CONNECTION, AMBIGUOUS, NEGATIVE = 1, 0, -1  # verdicts
VERDICTS = {CONNECTION: "connection", AMBIGUOUS: "ambiguous", NEGATIVE: "negative"}  # as files name them

Numbers = TypeVar("Numbers", Tensor, NDArray[np.float32], NDArray[np.float64])


@dataclass(frozen=True)
class Candidates:
    """The hardest pair of every anchor that has one, with its spare; C <= 2B rows."""

    image_C: Tensor  # (C,) long
    text_C: Tensor  # (C,) long
    spare_image_C: Tensor  # (C,) long, the second-hardest pair of the same anchor; -1 where there is none
    spare_text_C: Tensor  # (C,) long
    from_text_C: Tensor  # (C,) bool, True: anchored at the text


@dataclass(frozen=True)
class SettledPairs:
    """Pairs with a verdict. A pair found in both directions has two rows: ITC needs both."""

    image_K: Tensor  # (K,) long
    text_K: Tensor  # (K,) long
    label_K: Tensor  # (K,) long, 1 = connection, 0 = negative
    from_text_K: Tensor  # (K,) bool, True: anchored at the text
    p_K: Tensor | None = None  # (K,) float, P(match) that the matching head learns in the label's place
    weight_K: Tensor | None = None  # (K,) float, what a connection weighs in its anchor's ITC target; None: 1 each

    @property
    def connections(self) -> Tensor:
        """(K,) bool, True where the pair is a connection."""
        return self.label_K == 1

    def once(self) -> SettledPairs:
        """Each (image, text) pair once, at its first row; rows that differ in label make a connection.

        These are the pairs of the matching head and the text loss, which read no weights.
        """
        key_K = self.image_K << 32 | self.text_K
        unique_U, inverse_K = torch.unique(key_K, return_inverse=True)
        row_K = torch.arange(len(key_K), device=key_K.device)
        first_U = torch.zeros_like(unique_U).scatter_reduce(0, inverse_K, row_K, "amin", include_self=False)
        label_U = torch.zeros_like(unique_U).scatter_reduce(0, inverse_K, self.label_K, "amax")
        first_U, order_U = first_U.sort()
        p_U = None if self.p_K is None else self.p_K[first_U]
        columns = self.image_K[first_U], self.text_K[first_U], label_U[order_U], self.from_text_K[first_U]
        return SettledPairs(*columns, p_U)


def known_positives(
    image_id_B: Tensor, text_id_B: Tensor, image_id_W: Tensor | None = None, text_id_W: Tensor | None = None
) -> Tensor:
    """Pairs known to match by identity: the same image, or the same caption.

    Args:
        image_id_B, text_id_B: (B,) int64 of the rank's batch; equal ids are the same image or text.
        image_id_W, text_id_W: (W,) of all ranks; None: W is the batch itself.

    Returns:
        (B, W) bool. It reads both ways: image b with text w, and text b with image w. Own pairs are True.

    Example:
        >>> known_positives(torch.tensor([1, 1, 2]), torch.tensor([7, 8, 9])).int().tolist()
        [[1, 1, 0], [1, 1, 0], [0, 0, 1]]
    """
    image_id_W = image_id_B if image_id_W is None else image_id_W
    text_id_W = text_id_B if text_id_W is None else text_id_W
    return (image_id_B[:, None] == image_id_W[None, :]) | (text_id_B[:, None] == text_id_W[None, :])


def own_positives(B: int, W: int, first_col: int = 0, device: torch.device | None = None) -> Tensor:
    """Own pairs alone.

    Args:
        B: the rank's own batch.
        W: the gathered width over ranks.
        first_col: the first of the rank's own columns; 0 in one process.
        device: where the mask is made; None: the CPU.

    Returns:
        (B, W) bool, True at [b, first_col + b].
    """
    column_B = torch.arange(first_col, first_col + B, device=device)
    return column_B[:, None] == torch.arange(W, device=device)[None, :]


def near_own(sim_i2t_BB: Tensor, sim_t2i_BB: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """Pairs nearly as similar as their row's own pair (NV-Retriever's relative margin, arXiv 2407.15831).

    What the share leaves is a margin below the own pair: own - (1 - share) |own|, below a negative own, too, as
    sentence-transformers has it since its #3821.

    Args:
        sim_i2t_BB, sim_t2i_BB: similarities, at [i, t] and at [t, i].
        share: of the own pair's similarity, such as 0.95.

    Returns:
        (i2t_BB, t2i_BB) bool.
    """

    def at_least(sim_BB: Tensor) -> Tensor:
        own_B1 = sim_BB.diagonal()[:, None]
        return sim_BB >= torch.where(own_B1 < 0, 2 - share, share) * own_B1

    return at_least(sim_i2t_BB), at_least(sim_t2i_BB)


def at_candidates(candidates: Candidates, i2t_BB: Tensor, t2i_BB: Tensor) -> Tensor:
    """The matrix entry of each candidate, in the row of its anchor.

    Args:
        candidates: C pairs.
        i2t_BB, t2i_BB: at [i, t] and at [t, i].

    Returns:
        (C,) of the matrices' type.
    """
    image_C, text_C = candidates.image_C, candidates.text_C
    return torch.where(candidates.from_text_C, t2i_BB[text_C, image_C], i2t_BB[image_C, text_C])


def hardest_pairs(
    sim_i2t_BB: Tensor, sim_t2i_BB: Tensor, excluded_BB: Tensor, no_spare: tuple[Tensor, Tensor] | None = None
) -> Candidates:
    """For every text its most similar image, for every image its most similar text, and the second of each.

    Source: GRIT-VLP's hard negatives; MAFA's mining. Ties go to the lowest index.

    Args:
        sim_i2t_BB, sim_t2i_BB: similarities of image i with text t at [i, t], and at [t, i].
        excluded_BB: bool at [i, t], pairs that may not be chosen: own and known positives.
        no_spare: (i2t_BB, t2i_BB) bool, as the similarities, further pairs that may not be a spare.

    Returns:
        The candidates, those of texts first; an anchor without a pair has none.

    Example:
        >>> sim = torch.tensor([[0.9, 0.2, 0.5], [0.1, 0.8, 0.3], [0.4, 0.6, 0.7]])
        >>> found = hardest_pairs(sim, sim.T, torch.eye(3, dtype=torch.bool))
        >>> list(zip(found.image_C.tolist(), found.text_C.tolist()))
        [(2, 0), (2, 1), (0, 2), (0, 2), (1, 2), (2, 1)]
    """
    spare_i2t_BB, spare_t2i_BB = _spares(excluded_BB, no_spare)
    image_B, spare_image_B = _top_two(sim_t2i_BB, excluded_BB.T, spare_t2i_BB)
    text_B, spare_text_B = _top_two(sim_i2t_BB, excluded_BB, spare_i2t_BB)
    return _candidates(image_B, spare_image_B, text_B, spare_text_B)


def sampling_weights(logits_BB: Tensor) -> Tensor:
    """Weights that negatives are drawn by: softmax(similarity / temperature) + 1e-4, as LAVIS' BLIP-2 draws them."""
    return logits_BB.float().softmax(dim=1) + 1e-4


def sampled_pairs(
    weights_i2t_BB: Tensor,
    weights_t2i_BB: Tensor,
    excluded_BB: Tensor,
    generator: torch.Generator,
    spares: bool = False,
    no_spare: tuple[Tensor, Tensor] | None = None,
) -> Candidates:
    """For every text one image, for every image one text, drawn by weight among those not excluded.

    Source: ALBEF's ITM negatives, as in LAVIS' BLIP-2.

    Args:
        weights_i2t_BB, weights_t2i_BB: of sampling_weights, at [i, t] and at [t, i].
        excluded_BB: bool at [i, t], pairs that may not be chosen.
        generator: on the device of the weights.
        spares: draw another one of each anchor, for where the first is left out.
        no_spare: see hardest_pairs.
    """
    image_B = _drawn(weights_t2i_BB, excluded_BB.T, generator)
    text_B = _drawn(weights_i2t_BB, excluded_BB, generator)
    spare_image_B = spare_text_B = torch.full_like(image_B, -1)
    if spares:
        spare_i2t_BB, spare_t2i_BB = _spares(excluded_BB, no_spare)
        spare_image_B = _drawn(weights_t2i_BB, _and_taken(spare_t2i_BB, image_B), generator)
        spare_text_B = _drawn(weights_i2t_BB, _and_taken(spare_i2t_BB, text_B), generator)
    return _candidates(image_B, spare_image_B, text_B, spare_text_B)


def judge(p_C: Numbers, low: float, high: float) -> Numbers:
    """The ECM rule: CONNECTION above `high`, NEGATIVE below `low`, else AMBIGUOUS, as at a bound itself.

    Args:
        p_C: (C,) P(match), a tensor or an array.
        low, high: bounds, 0.5 and 0.8 in the paper.

    Example:
        >>> judge(torch.tensor([0.9, 0.6, 0.1]), low=0.5, high=0.8).tolist()
        [1, 0, -1]
    """
    return (p_C > high) * CONNECTION + (p_C < low) * NEGATIVE


def replaced(candidates: Candidates, verdict_C: Tensor, action: str) -> Tensor:
    """(C,) bool, True where the spare takes the candidate's place."""
    return (_acted(verdict_C, action) == AMBIGUOUS) & (candidates.spare_image_C >= 0)


def settle(
    candidates: Candidates,
    p_C: Tensor | None,
    low: float,
    high: float,
    action: str = "connect",
    reconcile: bool = True,
    spare_p_C: Tensor | None = None,
) -> tuple[SettledPairs, dict[str, int]]:
    """Turn P(match) of every candidate into settled pairs, and count the verdicts (MAFA, efficient connection mining).

    A connection gets label 1, a negative 0; an ambiguous pair gives way to its spare as an unverified negative, and
    without a spare it is left out. With action distil every candidate is a negative that carries its P(match) for the
    matching head.

    Args:
        candidates: of hardest_pairs or sampled_pairs.
        p_C: (C,) P(match) of the candidates; None (nothing scored) makes all of them negatives.
        low, high: the bounds of `judge`.
        action: MafaSettings.action.
        reconcile: a spare of one direction may have been a scored candidate of the other. Then its verdict wins over
            the spare's assumed label: a connection stays 1, an ambiguous pair is left out. So no pair ever carries two
            labels. False keeps the contradiction, as the official code does.
        spare_p_C: (C,) P(match) of spares, NaN where not verified. A verified spare follows its own verdict; an
            ambiguous one has no spare in turn, so its anchor is left without a pair.

    Returns:
        The settled pairs, and counts: rows of candidates by verdict (a pair found in both directions counts twice) and
        spares in use.
    """
    verdict_C = torch.full_like(candidates.image_C, NEGATIVE) if p_C is None else judge(p_C, low, high)
    acted_C = _acted(verdict_C, action)
    use_spare_C = replaced(candidates, verdict_C, action)
    spare_verdict_C = torch.full_like(verdict_C, NEGATIVE)
    if spare_p_C is not None:
        spare_verdict_C = torch.where(spare_p_C.isnan(), spare_verdict_C, judge(spare_p_C, low, high))
    if reconcile:
        spare_verdict_C = _reconciled(candidates, verdict_C, spare_verdict_C)
    final_C = torch.where(use_spare_C, _acted(spare_verdict_C, action), acted_C)
    kept_C = final_C != AMBIGUOUS
    settled = SettledPairs(
        torch.where(use_spare_C, candidates.spare_image_C, candidates.image_C)[kept_C],
        torch.where(use_spare_C, candidates.spare_text_C, candidates.text_C)[kept_C],
        (final_C[kept_C] == CONNECTION).long(),
        candidates.from_text_C[kept_C],
        p_C[kept_C] if p_C is not None and action == "distil" else None,
    )
    return settled, verdict_counts(verdict_C, use_spare_C & kept_C)


def _spares(excluded_BB: Tensor, no_spare: tuple[Tensor, Tensor] | None) -> tuple[Tensor, Tensor]:
    """Pairs that may not be spares, image→text and text→image."""
    i2t_BB, t2i_BB = no_spare or (excluded_BB, excluded_BB.T)
    return excluded_BB | i2t_BB, excluded_BB.T | t2i_BB


def _top_two(sim_BB: Tensor, excluded_BB: Tensor, no_spare_BB: Tensor) -> tuple[Tensor, Tensor]:
    """Column of the largest open entry of each row, and of the largest other one that may be a spare; -1: none."""
    best_B = _top(sim_BB, excluded_BB)
    return best_B, _top(sim_BB, _and_taken(no_spare_BB, best_B))


def _top(sim_BB: Tensor, excluded_BB: Tensor) -> Tensor:
    # argmax promises the first of equal maxima, topk and sort do not
    best_B1 = sim_BB.masked_fill(excluded_BB, -torch.inf).argmax(dim=1, keepdim=True)
    return best_B1.masked_fill(excluded_BB.gather(1, best_B1), -1).squeeze(1)


def _drawn(weights_BB: Tensor, excluded_BB: Tensor, generator: torch.Generator) -> Tensor:
    """One open column of each row, drawn by weight; -1 where there is none."""
    closed_B1 = excluded_BB.all(dim=1, keepdim=True)
    # multinomial refuses a row without weight: such a row draws among all and is masked after
    weights_BB = weights_BB.masked_fill(excluded_BB & ~closed_B1, 0.0)
    return torch.multinomial(weights_BB, 1, generator=generator).masked_fill(closed_B1, -1).squeeze(1)


def _and_taken(excluded_BB: Tensor, column_B: Tensor) -> Tensor:
    """`excluded_BB` plus column_B of each row; a row without a column (-1) is fully excluded already."""
    return excluded_BB.scatter(1, column_B.clamp(min=0)[:, None], True)


def _candidates(image_B: Tensor, spare_image_B: Tensor, text_B: Tensor, spare_text_B: Tensor) -> Candidates:
    """Rows of both directions from each text's image and each image's text; -1 means none."""
    anchor_B = torch.arange(len(image_B), device=image_B.device)
    from_text_B = torch.ones_like(anchor_B, dtype=torch.bool)
    image_C, text_C = torch.cat([image_B, anchor_B]), torch.cat([anchor_B, text_B])
    spare_image_C = torch.cat([spare_image_B, torch.where(spare_text_B < 0, -1, anchor_B)])
    spare_text_C = torch.cat([torch.where(spare_image_B < 0, -1, anchor_B), spare_text_B])
    found_C = (image_C >= 0) & (text_C >= 0)
    from_text_C = torch.cat([from_text_B, ~from_text_B])
    columns = (image_C, text_C, spare_image_C, spare_text_C, from_text_C)
    return Candidates(*(column_C[found_C] for column_C in columns))


def _acted(verdict_C: Tensor, action: str) -> Tensor:
    """The verdict under the action: drop turns connections ambiguous, keep and distil turn all into negatives."""
    if action in ("keep", "distil"):
        return torch.full_like(verdict_C, NEGATIVE)
    return verdict_C.clamp(max=AMBIGUOUS) if action == "drop" else verdict_C


def _reconciled(candidates: Candidates, verdict_C: Tensor, spare_verdict_C: Tensor) -> Tensor:
    """Verdict of every spare; that of the same pair as a candidate of the other direction takes precedence."""
    same_image_CC = candidates.spare_image_C[:, None] == candidates.image_C[None, :]
    same_CC = same_image_CC & (candidates.spare_text_C[:, None] == candidates.text_C[None, :])
    # at most one row of the other direction is the same pair, so that the sum is its verdict
    return torch.where(same_CC.any(dim=1), (same_CC * verdict_C).sum(dim=1), spare_verdict_C)


def verdict_counts(verdict_C: Tensor, spare_C: Tensor) -> dict[str, int]:
    """Candidates by verdict, and the spares in use (spare_C, bool)."""
    masks = (verdict_C == CONNECTION, verdict_C == AMBIGUOUS, verdict_C == NEGATIVE, spare_C)
    numbers = torch.stack([mask_C.sum() for mask_C in masks]).tolist()  # one device synchronisation instead of four
    names = ("connections", "ambiguous", "negatives", "spares")
    return {"candidates": len(verdict_C), **dict(zip(names, numbers, strict=True))}
