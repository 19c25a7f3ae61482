"""The candidates that people are asked to label: review.csv, and the page to label it on.

Tested in tests/jobs/test_mine.py.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from lavis_mafa.core.connections import KEY
from lavis_mafa.mining import results
from lavis_mafa.mining.review import write_review
from lavis_mafa.mining.shown import gallery_row
from lavis_mafa.mining.strata import around_target, by_tenths, draw
from lavis_mafa.mining_job.parts import Job
from lavis_mafa.mining_job.test_set import unsure
from lavis_mafa.reports.gallery import GalleryRow
from lavis_mafa.reports.labelling import write_labelling


def write_sample(job: Job, name: str) -> None:
    """Candidates of the data `name`, drawn for the precision that they are to show, or over all scores alike."""
    at_L, drawn_from = _drawn(job)
    shown = results.candidate_rows(job.corpus, job.mined, at_L).drop_columns([*KEY]).to_pandas()
    path = job.folder / "review.csv"
    rows = list(_rows(job, at_L))
    own_captions = [
        " | ".join(row.own_captions) for row in rows
    ]  # what the image's annotation says, beside the caption
    shown.insert(shown.columns.get_loc("caption") + 1, "own_captions", own_captions)
    write_review(path, shown.assign(**drawn_from))
    write_labelling(job.folder / "review", path, rows, job.source.data.open_image, f"Label pairs of {name}")


def _drawn(job: Job) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Their places, and the columns that say what each stands for."""
    p_K, run = job.mined.p_K, job.cfg.run_cfg
    target, size = run.target_precision, run.review_size
    if run.test_set:  # people decide what the judge cannot
        return np.random.default_rng(run.seed).permutation(unsure(job, None))[:size], {}
    drawn = draw(around_target(p_K, target, size) if target and len(p_K) else by_tenths(p_K, size), run.seed)
    # as it stands: a file has no float32
    return drawn.at_L, {"weight": drawn.weight_L, "above": drawn.above_L.astype(float)}


def _rows(job: Job, at_L: np.ndarray) -> Iterator[GalleryRow]:
    pairs, p_L = job.mined.candidates, job.mined.p_K[at_L].tolist()
    record_L, row_L = pairs.record_K[at_L].tolist(), job.corpus.text_row_T[pairs.text_K[at_L]].tolist()
    for record, row, p, similarity in zip(record_L, row_L, p_L, pairs.similarity_K[at_L].tolist(), strict=True):
        known = None if np.isnan(similarity) else similarity
        yield gallery_row(job.corpus.table, record, row, p=p, similarity=known)
