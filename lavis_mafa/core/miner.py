"""Efficient connection mining: candidates of a batch, scores, settled pairs. Tested in tests/core/test_miner.py."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lavis_mafa.core.batch import Batch, fetched
from lavis_mafa.core.connections import ConnectionStore
from lavis_mafa.core.pairs import (
    CONNECTION,
    NEGATIVE,
    Candidates,
    SettledPairs,
    at_candidates,
    hardest_pairs,
    judge,
    near_own,
    own_positives,
    replaced,
    sampled_pairs,
    sampling_weights,
    settle,
)
from lavis_mafa.core.scorer import PairScorer, WeighingScorer
from lavis_mafa.core.settings import MafaSettings
from lavis_mafa.core.whole_batch import every_pair, settle_batch


@dataclass(frozen=True)
class MinedPairs:
    """What mining found in one batch. p_C is P(match) of the candidates, None where they were not judged.

    Under rule relative it is 1 for a candidate near its anchor's own pair, else 0. matches_C marks those that were
    judged to match, whatever the action does with them. settled: the pairs of ITM and the text loss. itc: those of the
    ITC, None where they are the same.
    """

    settled: SettledPairs
    counts: dict[str, int]
    candidates: Candidates
    p_C: Tensor | None
    matches_C: Tensor | None = None  # (C,) bool
    itc: SettledPairs | None = None

    @property
    def itc_pairs(self) -> SettledPairs:
        """The pairs whose connections are positives of the ITC."""
        return self.settled if self.itc is None else self.itc


class ConnectionMiner:
    """Finds the hard pairs of a batch and lets a scorer tell false negatives from true ones (MAFA).

    Without a scorer every candidate is a negative: GRIT-VLP's hard negatives, or BLIP-2's drawn ones. With a store,
    a pair (record, caption) goes to the scorer only if the store lacks its score. Under rule relative the similarities
    decide without a scorer, and a pair near the own one is no spare either (NV-Retriever).
    With candidates: batch the scorer judges every pair of the batch anew: a store would hold B^2 scores a step, of
    judges for which a lookup costs more than a score.
    """

    def __init__(
        self, settings: MafaSettings, scorer: PairScorer | None = None, store: ConnectionStore | None = None
    ) -> None:
        assert scorer is None or settings.rule == "absolute", "rule relative asks no scorer"
        self.settings = settings
        self.scorer = scorer
        self.store = store

    @torch.no_grad()
    def mine(
        self,
        batch: Batch,
        sim_i2t_BB: Tensor,
        sim_t2i_BB: Tensor,
        known_BB: Tensor,
        generator: torch.Generator | None = None,
    ) -> MinedPairs:
        """Candidates of the batch, settled.

        Pairs are found on the CPU, wherever the similarities are: a GPU is waited for once to have them, and once by
        the scorer.

        Args:
            batch: the collated samples; with a store, `index` (record) and `text_row` (caption), both (B,), are read.
            sim_i2t_BB, sim_t2i_BB: the rank's own similarities, at [i, t] and at [t, i]; drawing (negatives:
                multinomial) takes them as divided by the temperature already.
            known_BB: see pairs.known_positives; only the own pairs count where the setting known_positives is off.
            generator: on the CPU, needed for drawing alone.

        Returns:
            The pairs, and counts: candidates, connections, ambiguous, negatives, spares (rows, see pairs.settle),
            scored (pairs put to the scorer), from_store (scores found in the store), known_positives (known matches
            beside the own pairs).

        Raises:
            ValueError: the scorer returns anything but probabilities.
        """
        sim_i2t_BB, sim_t2i_BB = fetched(sim_i2t_BB, sim_t2i_BB)
        excluded_BB = self._excluded(known_BB.cpu())
        if self.settings.candidates == "batch" and self.scorer is not None:
            return self._mine_batch(batch, sim_i2t_BB, sim_t2i_BB, excluded_BB, generator)
        is_relative = self.settings.rule == "relative"
        near = near_own(sim_i2t_BB, sim_t2i_BB, self.settings.own_share) if is_relative else None
        candidates = self._candidates(sim_i2t_BB, sim_t2i_BB, excluded_BB, near, generator)
        tally = _tally(excluded_BB)
        p_C, spare_p_C = self._scores(batch, candidates, tally)
        if near is not None:
            p_C = at_candidates(candidates, *near).float()
        rule = self.settings
        settled, counts = settle(
            candidates,
            p_C,
            rule.low,
            rule.high,
            rule.action,
            reconcile=rule.pairs_once,
            spare_p_C=spare_p_C,
        )
        matches_C = None if p_C is None else judge(p_C, rule.low, rule.high) == CONNECTION
        if p_C is not None and rule.positive_weight == "probability":
            settled = self._weighed(batch, settled, _table(candidates, p_C, spare_p_C, len(excluded_BB)))
        return MinedPairs(settled, {**counts, **tally}, candidates, p_C, matches_C)

    def _mine_batch(
        self,
        batch: Batch,
        sim_i2t_BB: Tensor,
        sim_t2i_BB: Tensor,
        excluded_BB: Tensor,
        generator: torch.Generator | None,
    ) -> MinedPairs:
        """Every pair of the batch judged and settled (core/whole_batch.py)."""
        rule, tally = self.settings, _tally(excluded_BB)
        candidates = every_pair(excluded_BB)
        half = len(candidates.image_C) // 2  # the other half are the same pairs, anchored at their images
        image_N, text_N = candidates.image_C[:half], candidates.text_C[:half]
        p_N = self._score(batch, image_N, text_N) if half else sim_i2t_BB.new_empty(0)
        p_BB = torch.full_like(sim_i2t_BB, torch.nan, dtype=p_N.dtype).index_put((image_N, text_N), p_N)
        verdict_BB = judge(p_BB, rule.low, rule.high)  # of NaN: ambiguous
        negatives = self._candidates(sim_i2t_BB, sim_t2i_BB, verdict_BB != NEGATIVE, None, generator)
        matches = hardest_pairs(sim_i2t_BB, sim_t2i_BB, verdict_BB != CONNECTION) if rule.action == "connect" else None
        settled, itc, counts = settle_batch(candidates, verdict_BB, negatives, matches)
        if rule.positive_weight == "probability":
            itc = self._weighed(batch, itc, p_BB)
        matches_C = verdict_BB[candidates.image_C, candidates.text_C] == CONNECTION
        return MinedPairs(settled, {**counts, **tally, "scored": half}, candidates, p_N.repeat(2), matches_C, itc)

    def _weighed(self, batch: Batch, pairs: SettledPairs, p_BB: Tensor) -> SettledPairs:
        """The pairs with the weights that their connections have in the ITC."""
        weight_K = p_BB[pairs.image_K, pairs.text_K].nan_to_num()  # of an unverified spare, which is no connection
        if isinstance(self.scorer, WeighingScorer):
            weight_K = self.scorer.weight(batch, pairs.image_K, pairs.text_K).to(weight_K)
        return replace(pairs, weight_K=weight_K)

    def _excluded(self, known_BB: Tensor) -> Tensor:
        own_BB = own_positives(len(known_BB), len(known_BB), device=known_BB.device)
        return known_BB | own_BB if self.settings.known_positives else own_BB

    def _candidates(
        self,
        sim_i2t_BB: Tensor,
        sim_t2i_BB: Tensor,
        excluded_BB: Tensor,
        no_spare: tuple[Tensor, Tensor] | None,
        generator: torch.Generator | None,
    ) -> Candidates:
        if self.settings.negatives == "hardest":
            return hardest_pairs(sim_i2t_BB, sim_t2i_BB, excluded_BB, no_spare)
        assert generator is not None, "negatives: multinomial draws from a generator, and none was given"
        weights_i2t_BB, weights_t2i_BB = sampling_weights(sim_i2t_BB), sampling_weights(sim_t2i_BB)
        spares = (self.scorer is not None and self.settings.candidates == "hardest") or no_spare is not None
        return sampled_pairs(weights_i2t_BB, weights_t2i_BB, excluded_BB, generator, spares, no_spare)

    def _scores(
        self, batch: Batch, candidates: Candidates, tally: dict[str, int]
    ) -> tuple[Tensor | None, Tensor | None]:
        """P(match) of the candidates, and of those spares that take a candidate's place (NaN for the others)."""
        if self.scorer is None:
            return None, None
        rule = self.settings
        p_C = self._look_up_or_score(batch, candidates.image_C, candidates.text_C, tally)
        if not rule.verify_spare:
            return p_C, None
        asked_C = replaced(candidates, judge(p_C, rule.low, rule.high), rule.action)
        spare_p_C = torch.full_like(p_C, torch.nan)
        spare_image_K, spare_text_K = candidates.spare_image_C[asked_C], candidates.spare_text_C[asked_C]
        spare_p_C[asked_C] = self._look_up_or_score(batch, spare_image_K, spare_text_K, tally)
        return p_C, spare_p_C

    def _look_up_or_score(self, batch: Batch, image_K: Tensor, text_K: Tensor, tally: dict[str, int]) -> Tensor:
        """(K,) P(match); every distinct pair is looked up once, and scored only if it is missing."""
        pair_U2, inverse_K = torch.unique(torch.stack([image_K, text_K], dim=1), dim=0, return_inverse=True)
        image_U, text_U = pair_U2.unbind(dim=1)
        p_U = self._stored(batch, image_U, text_U)
        missing_U = p_U.isnan()
        scored = int(missing_U.sum())
        tally["scored"] += scored
        tally["from_store"] += len(p_U) - scored
        if scored:
            p_U[missing_U] = self._score(batch, image_U[missing_U], text_U[missing_U])
            if self.store is not None:
                record_M, text_row_M = _keys(batch, image_U[missing_U], text_U[missing_U])
                self.store.add(record_M.numpy(), text_row_M.numpy(), p_U[missing_U].numpy())
        return p_U[inverse_K]

    def _stored(self, batch: Batch, image_U: Tensor, text_U: Tensor) -> Tensor:
        if self.store is None:
            return torch.full(image_U.shape, torch.nan)
        record_U, text_row_U = _keys(batch, image_U, text_U)
        return torch.from_numpy(self.store.lookup(record_U.numpy(), text_row_U.numpy()))

    def _score(self, batch: Batch, image_M: Tensor, text_M: Tensor) -> Tensor:
        assert self.scorer is not None
        p_M = self.scorer.score(_seen(batch), image_M, text_M).float().cpu()
        assert p_M.shape == image_M.shape, f"scorer gave shape {tuple(p_M.shape)} for {len(image_M)} pairs"
        if not bool(((p_M >= 0) & (p_M <= 1)).all()):  # NaN fails too
            raise ValueError(
                f"{type(self.scorer).__name__} ({self.scorer.fingerprint}) gave scores that are not probabilities "
                "(NaN, or outside [0, 1]): "
                "check its weights, and run it in float32 or bfloat16 if float16 overflows"
            )
        return p_M


def _tally(excluded_BB: Tensor) -> dict[str, int]:
    return {"scored": 0, "from_store": 0, "known_positives": int(excluded_BB.sum()) - len(excluded_BB)}


def _table(candidates: Candidates, p_C: Tensor, spare_p_C: Tensor | None, B: int) -> Tensor:
    """(B, B) P(match) of what was judged, by image and text; NaN elsewhere."""
    p_BB = p_C.new_full((B, B), torch.nan)
    if spare_p_C is not None:
        asked_C = ~spare_p_C.isnan()
        p_BB[candidates.spare_image_C[asked_C], candidates.spare_text_C[asked_C]] = spare_p_C[asked_C]
    p_BB[candidates.image_C, candidates.text_C] = p_C
    return p_BB


def _seen(batch: Batch) -> Batch:
    """The batch with judge_image, where the scorer sees images as the model in training does."""
    return batch if "judge_image" in batch or "image" not in batch else {**batch, "judge_image": batch["image"]}


def _keys(batch: Batch, image_K: Tensor, text_K: Tensor) -> tuple[Tensor, Tensor]:
    """Record of each image and row of each caption."""
    return batch["index"].cpu()[image_K], batch["text_row"].cpu()[text_K]
