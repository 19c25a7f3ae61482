"""What `mine` leaves in its folder: tables, figures, a plot, a sample to label, the extended annotation, a gallery."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
from omegaconf import OmegaConf

from lavis_mafa.common.stdout import show
from lavis_mafa.common.tree import Keys, at, keys_at, number_at
from lavis_mafa.common.versions import commit, versions
from lavis_mafa.core.pairs import AMBIGUOUS, CONNECTION, NEGATIVE, VERDICTS
from lavis_mafa.data.dataset import TruthFunction
from lavis_mafa.data.images import Roots
from lavis_mafa.evaluation.judge_check import JudgeCheck
from lavis_mafa.mining import results, review
from lavis_mafa.mining.annotate import write_connected
from lavis_mafa.mining.engine import Mined
from lavis_mafa.mining.overrule import overruled
from lavis_mafa.mining.shown import gallery_row
from lavis_mafa.mining_job.guarantee import guarantee_text, guaranteed
from lavis_mafa.mining_job.judgments import against_judgments
from lavis_mafa.mining_job.parts import Job
from lavis_mafa.mining_job.sample import write_sample
from lavis_mafa.mining_job.test_set import write_test_set
from lavis_mafa.reports.gallery import GalleryRow, write_gallery
from lavis_mafa.reports.mining_plots import draw_mining
from lavis_mafa.reports.table import write_json

LOW_RECALL = 0.9  # of the candidates; below, the report names the remedy


def report(job: Job) -> dict[str, object]:
    """Write everything, summary.json last; prints the figures and returns them."""
    job.folder.mkdir(parents=True, exist_ok=True)
    (job.folder / "summary.json").unlink(missing_ok=True)  # that of the run before: it speaks of what is replaced now
    by_people = _by_people(job)
    guarantee: dict[str, object] = {}
    if job.cfg.run_cfg.target_precision:
        job, guarantee = guaranteed(job, by_people)
    corpus, mined, rule, run = job.corpus, job.mined, job.rule, job.cfg.run_cfg
    at_S = results.suspects(mined, rule)
    labelled, figures = _labelled(job, by_people)  # of the judge alone
    if run.test_set:
        figures["test_set"] = write_test_set(job.folder / "test_set.json", job, by_people)
    curve = review.precision_recall(mined.p_K[labelled.at_L], labelled) if labelled else None
    if job.reviewed:
        mined, figures["labelled_by_people"] = overruled(corpus, mined, job.reviewed.labels, job.reviewed.p_L)
        job = replace(job, mined=mined)
    results.write_connections(job.folder / "connections.parquet", corpus, mined, mined.store.fingerprint)
    results.write_suspects(job.folder / "suspects.csv", corpus, mined, at_S)
    files = _annotations(job)
    counts_N = np.bincount(mined.candidates.record_K[mined.verdict_K == CONNECTION], minlength=corpus.n_images)
    draw_mining(job.folder / "mining.png", mined.p_K, (rule.low, rule.high), counts_N, curve)
    rows, title = _gallery_rows(job, at_S, run.gallery_size), f"Connections in {_name(job)}"
    note = _left_out(int(counts_N.sum()), run.gallery_size)
    write_gallery(job.folder / "gallery", rows, job.source.data.open_image, title, note, _totals(mined, len(at_S)))
    check = JudgeCheck.of(  # now of every annotated pair
        mined.own_p_P, job.check.auc_against_shuffled, rule, job.check.cosines
    )
    summary = {
        **results.totals(corpus, mined, rule),
        **figures,
        "judge_check": check.as_dict(),
        "judge": {"fingerprint": job.judge, **job.judge_report},
        **({"guarantee": guarantee} if guarantee else {}),
        "annotations": files,
        "versions": versions(),
        "commit": commit(),
        "config": OmegaConf.to_container(job.cfg.config),
    }
    write_json(job.folder / "summary.json", summary)
    show(_text(summary, check))
    show(f"written to {job.folder}: connections.parquet, gallery/index.html, mining.png, …")
    return summary


def _by_people(job: Job) -> review.Labelled | None:
    """The labels of the review, if it has any."""
    given = job.cfg.run_cfg.review
    path = Path(given).expanduser() if given else job.folder / "review.csv"
    if review.has_labels(path):
        return review.read_review(path, job.corpus, job.mined.candidates)
    if given:
        logging.warning(
            "run.review: %s has no labels yet: label it on its page, or fill its column label with 1 or 0", path
        )
    return None


def _labelled(job: Job, by_people: review.Labelled | None) -> tuple[review.Labelled | None, dict[str, object]]:
    """Labels where there are any, the truth before people's; else a sample is written for people to label."""
    corpus, mined, truth = job.corpus, job.mined, job.source.data.truth
    figures: dict[str, object] = {}
    if job.judged:
        figures["against_judgments"] = against_judgments(job.judged, mined)
    if len(corpus.hidden_H):
        figures["against_siblings"] = results.against_siblings(corpus, mined)
    if by_people:
        figures["against_review"] = results.quality(mined, by_people)
    elif not job.cfg.run_cfg.review:
        write_sample(job, _name(job))
    if truth is None:
        return by_people, figures
    by_truth = results.labelled_by_truth(corpus, mined, truth)
    figures["against_truth"] = {
        **results.quality(mined, by_truth),
        "coverage": results.coverage(corpus, mined, truth),
        "own_pairs_that_are_false": int((~truth(corpus.own_record_P, corpus.text_row_T[corpus.own_text_P])).sum()),
    }
    return by_truth, figures


def _annotations(job: Job) -> dict[str, int]:
    """The annotation files with the connections as further captions; how many each got."""
    options, captions = job.source.options, results.connected_captions(job.corpus, job.mined)
    added: dict[str, int] = {}
    for number, file in enumerate(job.source.files, start=1):
        target = job.folder / f"{file.stem}_connected{file.suffix}"
        if target.name in added:  # files of several folders often have one name
            target = job.folder / f"{file.stem}_{number}_connected{file.suffix}"
        name, columns = _name(job), keys_at(options, "columns")
        added[target.name] = write_connected(
            file,
            target,
            captions,
            name,
            cast(Mapping[str, str | None], columns),
            cast(Roots, options.get("images") or ()),
        )
    return added


def _name(job: Job) -> str:
    """Of the data, as the user calls it."""
    return str(job.source.options.get("name", job.source.name))


def _totals(mined: Mined, suspects: int) -> dict[str, int]:
    """How many there are of what the gallery shows a part of."""
    counts = {word: int((mined.verdict_K == verdict).sum()) for verdict, word in VERDICTS.items()}
    return {**counts, "suspect": suspects}


def _left_out(connections: int, size: int) -> str:
    if connections <= size:
        return ""
    return f"Shown are the {size:,} surest of {connections:,} connections; connections.parquet has all."


def _gallery_rows(job: Job, at_S: np.ndarray, size: int) -> Iterator[GalleryRow]:
    """The surest connections, and a quarter as many of what is ambiguous, nearly accepted and suspected."""
    mined, truth = job.mined, job.source.data.truth
    order = np.argsort(-mined.p_K, kind="stable")
    for verdict, count in ((CONNECTION, size), (AMBIGUOUS, size // 4), (NEGATIVE, size // 4)):
        at = order[mined.verdict_K[order] == verdict][:count]
        pairs = (
            mined.candidates.record_K[at],
            mined.candidates.text_K[at],
            mined.candidates.similarity_K[at],
            mined.p_K[at],
        )
        yield from _rows(job, truth, VERDICTS[verdict], *pairs)
    own = at_S[: size // 4]
    pairs = (job.corpus.own_record_P[own], job.corpus.own_text_P[own], mined.own_similarity_P[own], mined.own_p_P[own])
    yield from _rows(job, truth, "suspect", *pairs)


def _rows(
    job: Job,
    truth: TruthFunction | None,
    verdict: str,
    record_L: np.ndarray,
    text_L: np.ndarray,
    similarity_L: np.ndarray,
    p_L: np.ndarray,
) -> Iterator[GalleryRow]:
    table, row_L = job.corpus.table, job.corpus.text_row_T[text_L]
    true_L = [None] * len(row_L) if truth is None else truth(record_L, row_L).tolist()
    columns = (record_L, row_L, similarity_L, p_L)
    for record, row, similarity, p, true in zip(*(column.tolist() for column in columns), true_L, strict=True):
        known = None if np.isnan(similarity) else similarity
        found = gallery_row(table, record, row, p=p, verdict=verdict, similarity=known, true=true)
        # a doubted pair is annotated itself, though another image may carry the caption first
        yield replace(found, caption_record=None) if verdict == "suspect" else found


def _text(summary: Keys, check: JudgeCheck) -> str:
    recalls = cast(Mapping[str, float], summary["recall_of_candidates"])
    lines = [
        "",
        f"{summary['images']:,} images, {summary['distinct_captions']:,} distinct captions",
        f"{summary['candidates']:,} candidates = {summary['connections']:,} connections"
        f" + {summary['ambiguous']:,} ambiguous + {summary['negatives']:,} negatives",
        f"{summary['images_with_connections']:,} images have a connection;"
        f" {summary['suspected_false_positives']:,} of {summary['own_pairs']:,} annotated pairs are doubtful",
        "recall of the candidates compared with exact search: "
        + ", ".join(f"{name} {value:.1%}" for name, value in recalls.items()),
    ]
    lines.append(f"the judge: {check}")
    if check.advice:
        lines.append(f"WARNING: the judge is doubtful: {check.advice}")
    if min(recalls.values()) < LOW_RECALL:
        lines.append("the search is not exact and misses many of the nearest: raise run.nprobe, or set run.index: flat")
    for name, words in (("against_truth", "truth function"), ("against_review", "labels")):
        if name in summary:
            lines.append(_quality(words, keys_at(summary, name)))
    lines += [_judged(name, figures) for name, figures in keys_at(summary, "against_judgments").items()]
    if "against_siblings" in summary:
        lines.append(_quality("hidden siblings", keys_at(summary, "against_siblings")))
    if "guarantee" in summary:
        lines += guarantee_text(keys_at(summary, "guarantee"), cast(int, summary["connections"]))
    return "\n".join([*lines, ""])


def _quality(words: str, figures: Keys) -> str:
    keys = ("recall", f"precision_at_recall_{results.RECALL}", "coverage", "found")
    shown = [f"{key.replace('_', ' ')} {_percent(number_at(figures, key))}" for key in keys if key in figures]
    if "precision" in figures:
        within = figures["precision_95"]
        interval = " ({} to {})".format(*map(_percent, within)) if isinstance(within, tuple) else ""
        precision, base = (_percent(number_at(figures, name)) for name in ("precision", "base_rate"))
        number = figures["connections"]
        reached = f"precision {precision}{interval} of {number:,}" if number else "no connection among them"
        shown.insert(0, f"{reached}, where {base} of all match")
    weighted = ", each weighted by the candidates that it stands for" if figures.get("weighted") else ""
    labelled = figures["labelled"] if "labelled" in figures else figures["candidates"]
    return f"against the {words} ({labelled:,} candidates{weighted}): " + ", ".join(shown)


def _judged(name: str, figures: object) -> str:
    shown, base_rate = [], number_at(figures, "base_rate")
    for key in ("auc", "average_precision", "precision", "recall"):
        interval = at(figures, "intervals_95", key)
        within = " ({} to {})".format(*map(_percent, interval)) if isinstance(interval, (list, tuple)) else ""
        shown.append(f"{key.replace('_', ' ')} {_percent(number_at(figures, key))}{within}")
    return (
        f"against the judgments, {name} ({at(figures, 'pairs'):,} pairs, {_percent(base_rate)} match): "
        f"{', '.join(shown)}; {_percent(number_at(figures, 'candidates', 'coverage'))} of the matches are candidates"
    )


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.1%}"
