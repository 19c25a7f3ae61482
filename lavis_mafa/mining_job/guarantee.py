"""`run.target_precision`: connections above the loosest bound that labels show to be as precise as that.

Tested in tests/jobs/test_guarantee.py.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from lavis_mafa.common.tree import Keys, keys_at, number_at
from lavis_mafa.core.pairs import judge
from lavis_mafa.core.settings import MafaSettings
from lavis_mafa.mining import results
from lavis_mafa.mining.batches import grit_plan, meetings
from lavis_mafa.mining.corpus import packed, places
from lavis_mafa.mining.engine import Mined
from lavis_mafa.mining.estimates import Estimate, Powered
from lavis_mafa.mining.guarantee import ALPHA, Certified, Labels, certify, labels_needed
from lavis_mafa.mining.review import Labelled
from lavis_mafa.mining.strata import Strata, around_target, draw
from lavis_mafa.mining_job.parts import Job

NO_LABELS = (
    "no labels yet: label review.csv, on the page review/index.html or with 1 and 0 in its column label, and mine again"
)
NO_SAMPLE = (
    "are no random sample of the candidates by this judge's scores: the guarantee holds as far as they are like one"
)
TO_GET_ONE = {
    "people": "To get one, drop run.review or choose a new run.output_dir; these labels stay",
    "judged_pairs": "To get one, label review.csv",
}
NOT_ENOUGH = "no tested bound has shown the target"
TOO_FEW = "too few labels above any bound to show the target, whatever they say"
NO_NUMBER = "no number of labels can be given, as at no bound the precision seems to be above the target"
NO_NUMBER_OF_OTHERS = "no number of labels can be given, as these are no random sample"


@dataclass(frozen=True)
class Sample:
    """Labels, the strata they are read by, and whether they are a random sample within these."""

    strata: Strata
    labelled: Labelled
    by: str
    is_random: bool

    @property
    def labels(self) -> Labels:
        """What was labelled of every stratum."""
        stratum_L = self.strata.stratum_K[self.labelled.at_L]
        counted = [
            np.bincount(stratum_L, weights, len(self.strata.size_S)).astype(np.int64)
            for weights in (None, self.labelled.true_L)
        ]
        return Labels(self.strata.above_S, self.strata.size_S, *counted)


def guaranteed(job: Job, by_people: Labelled | None) -> tuple[Job, dict[str, object]]:
    """The job with the bound that the labels allow, and what they say; without a bound it connects nothing."""
    target, seed = float(job.cfg.run_cfg.target_precision), int(job.cfg.run_cfg.seed)
    sample = labels_of(job, target, by_people)
    about: dict[str, object] = {"target": target, "confidence": 1 - ALPHA}
    if sample is None:
        return _bounded(job, None), {
            **about,
            "bound": None,
            "reason": NO_LABELS,
            "labels_at_least": least_labels(target),
        }
    if not sample.is_random:
        logging.warning("run.target_precision: the labels (%s) %s. %s", sample.by, NO_SAMPLE, TO_GET_ONE[sample.by])
    labels = sample.labels
    found = certify(labels, target, seed)
    bound = None if found.stratum is None else float(labels.above_S[found.stratum])
    about |= {"bound": bound, "labels": int(labels.labels_S.sum()), "labelled_by": sample.by}
    about |= {"random_sample": sample.is_random, "bounds_tested": found.bounds}
    powered = _powered(job.mined, sample) if sample.is_random else None  # of others no total can be estimated
    if bound is None:
        needed = _needed(powered, labels, target, found) if powered else {}
        return _bounded(job, None), {**about, "reason": NOT_ENOUGH if found.bounds else TOO_FEW, **needed}
    job = _bounded(job, bound)
    figures = _figures(job, powered, bound) if powered else {}
    return job, {**about, "precision_at_least": found.at_least, **figures}


def least_labels(target: float) -> int:
    """How many labels above a bound show a target if all are matches and no other bound is tested: fewer never do."""
    return int(np.floor(np.log(ALPHA) / np.log(target))) + 1


def labels_of(job: Job, target: float, by_people: Labelled | None) -> Sample | None:
    """People's labels of a review, or the truth of a sample that is drawn here, or pairs that were judged before."""
    p_K, run = job.mined.p_K, job.cfg.run_cfg
    if not len(p_K):
        return None
    if by_people is not None:
        strata = _strata_of(p_K, by_people)
        if strata is not None:
            return Sample(strata, by_people, "people", True)
        return Sample(around_target(p_K, target, len(by_people.at_L)), by_people, "people", False)
    if job.source.data.truth is not None:
        strata = around_target(p_K, target, run.review_size)
        drawn = draw(strata, run.seed)
        true_L = results.labelled_by_truth(job.corpus, job.mined, job.source.data.truth).true_L[drawn.at_L]
        return Sample(strata, Labelled(drawn.at_L, true_L, drawn.weight_L), "truth", True)
    labelled = _judged(job)
    if labelled is None:
        return None
    return Sample(around_target(p_K, target, len(labelled.at_L)), labelled, "judged_pairs", False)


def _judged(job: Job) -> Labelled | None:
    """The judged pairs among the candidates, each once."""
    if job.judged is None:
        return None
    pairs, judged = job.mined.candidates, job.judged
    at_K, inside_A = places(packed(pairs.record_K, pairs.text_K), judged.key_A)
    asked_P = judged.at_P >= 0
    true_A = np.zeros(len(judged.key_A), np.bool_)
    true_A[judged.at_P[asked_P]] = judged.pairs.pairs["label"].to_numpy()[asked_P]
    at_L = at_K[inside_A]
    return Labelled(at_L, true_A[inside_A], np.ones(len(at_L))) if len(at_L) else None


def _strata_of(p_K: NDArray[np.float32], labelled: Labelled) -> Strata | None:
    """The strata that labels say they were drawn from; None where they are not those of these scores."""
    if labelled.above_L is None:
        return None
    above_S, size_S = np.unique(labelled.above_L)[::-1], np.zeros(0)
    stratum_K = len(above_S) - np.searchsorted(above_S[::-1], p_K, side="left")
    inside_K = stratum_K < len(above_S)
    size_S = np.bincount(stratum_K[inside_K], minlength=len(above_S))
    named_L = len(above_S) - 1 - np.searchsorted(above_S[::-1], labelled.above_L)
    stands_S = np.bincount(named_L, labelled.weight_L, len(above_S))
    agree = np.array_equal(named_L, stratum_K[labelled.at_L]) and np.allclose(stands_S, size_S, rtol=1e-6, atol=0.5)
    if not agree or not inside_K.all():
        return None
    return Strata(stratum_K, above_S, size_S, np.bincount(named_L, minlength=len(above_S)))


def _bounded(job: Job, bound: float | None) -> Job:
    """The verdicts under the bound; without one nothing is connected."""
    high = 1.0 if bound is None else max(bound, 0.0)
    rule = MafaSettings(low=min(job.rule.low, high), high=high)
    verdict_K = judge(job.mined.p_K, rule.low, rule.high).astype(np.int8)
    return replace(job, mined=replace(job.mined, verdict_K=verdict_K), rule=rule)


def guarantee_text(figures: Keys, connections: int = 0) -> list[str]:
    """What summary.json has under `guarantee`, for people. connections: of judge and people together."""
    sampled = [] if figures.get("random_sample", True) else [f"the labels ({figures['labelled_by']}) {NO_SAMPLE}"]
    return [*_about_the_bound(figures, connections), *sampled]


def _about_the_bound(figures: Keys, connections: int) -> list[str]:
    target, bound = number_at(figures, "target"), number_at(figures, "bound")
    if bound is None:
        ends = "Nothing is connected"
        if connections:
            ends = f"The judge connects nothing; the connections ({connections:,}) come from your labels"
        return [f"no bound with a precision of {target:.0%}: {figures['reason']}{_labels_to_give(figures)}. {ends}"]
    shown = f"bound {bound:.3f}: with 95 % confidence at least {number_at(figures, 'precision_at_least'):.1%} of the "
    shown += f"connections match ({figures['labels']:,} labels)"
    if "precision" not in figures:
        return [shown]
    precision, recall = (_within(keys_at(figures, name)) for name in ("precision", "recall"))
    lines = [f"{shown}; precision {precision}, recall among the candidates {recall}"]
    for name, batches in keys_at(figures, "false_negatives_a_batch").items():
        if isinstance(batches, Mapping):
            before, after = (_within(keys_at(batches, when), "{:.2f}") for when in ("before", "after"))
            lines.append(f"false negatives in a {name} batch: {before}, after connecting {after}")
    lines.append(f"half as wide intervals would take {figures['labels_to_halve']:,} more labels")
    return lines


def _labels_to_give(figures: Keys) -> str:
    least, needed = (number_at(figures, name) for name in ("labels_at_least", "labels_needed"))
    if least is not None:
        return f" (at least {least:,.0f} labels above a bound, more where some are 0)"
    if needed is not None:
        return f"; about {needed:,.0f} labels would show it for {figures['for_the_bound']:.3f}"
    return f"; {NO_NUMBER if figures.get('random_sample') else NO_NUMBER_OF_OTHERS}"


def _within(estimate: Keys, form: str = "{:.1%}") -> str:
    if not estimate:
        return "unknown"
    value, low, high = (form.format(estimate[name]) for name in ("value", "low", "high"))
    return f"{value} ({low} to {high})"


def _powered(mined: Mined, sample: Sample) -> Powered:
    labelled = sample.labelled
    return Powered(mined.p_K.astype(float), sample.strata.stratum_K, labelled.at_L, labelled.true_L.astype(float))


def _figures(job: Job, powered: Powered, bound: float) -> dict[str, object]:
    """Precision, recall and false negatives a batch, each with its interval."""
    connected_K = (job.mined.p_K > bound).astype(float)
    every_K = np.ones_like(connected_K)
    recall = powered.ratio(connected_K, every_K)
    return {
        "precision": powered.total(connected_K / max(connected_K.sum(), 1)).within(0, 1).plain(),
        "recall": recall.within(0, 1).plain() if recall else None,
        "false_negatives_a_batch": _false_negatives(job, powered, connected_K),
        "labels_to_halve": 3 * len(powered.at_L),  # an interval is as wide as the root of its labels is small
    }


def _false_negatives(
    job: Job, powered: Powered, connected_K: NDArray[np.float64]
) -> dict[str, dict[str, object] | int] | None:
    """Expected false negatives among the candidates in a random and in a GRIT batch, before and after connecting."""
    run, corpus = job.cfg.run_cfg, job.corpus
    size = int(run.batch_size_train)
    if size > corpus.n_images or job.embeddings is None:
        return None
    plan = grit_plan(corpus, *job.embeddings, size, run.search_space, int(run.seed))
    found: dict[str, dict[str, object] | int] = {"batch_size": size}
    for name, planned in (("random", None), ("grit", plan)):
        met_K = meetings(corpus, job.mined.candidates, size, planned)
        before, after = (powered.total(z_K) for z_K in (met_K, met_K * (1 - connected_K)))
        found[name] = {"before": _counted(before), "after": _counted(after)}
    return found


def _counted(estimate: Estimate) -> dict[str, float]:
    return estimate.within(0, np.inf).plain()


def _needed(powered: Powered, labels: Labels, target: float, found: Certified) -> dict[str, object]:
    """How many labels would show the target, by the precision that each bound seems to have."""
    needs: list[tuple[int, float]] = []
    for edge in range(1, len(labels.size_S) + 1):
        above_K = (powered.stratum_K < edge).astype(float)
        precision = powered.total(above_K / above_K.sum()).within(0, 1).value
        number = labels_needed(min(precision, 0.999), target, max(found.bounds, 1))
        share = labels.labels_S[:edge].sum() / max(labels.labels_S.sum(), 1)
        if number is not None and share:
            needs.append((int(np.ceil(number / share)), float(labels.above_S[edge - 1])))
    least = min(needs, default=(None, None))
    return {"labels_needed": least[0], "for_the_bound": least[1]}
