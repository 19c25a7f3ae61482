"""`mine --test-set`: all matches that are known of a split, and who says so. Tested in tests/jobs/test_test_set.py.

Candidates are pooled from the retrievers; the judge decides about those that are clear, people about the others.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from lavis_mafa.common.formats import header
from lavis_mafa.core.pairs import AMBIGUOUS, CONNECTION
from lavis_mafa.mining.corpus import packed, unpacked
from lavis_mafa.mining.review import Labelled
from lavis_mafa.mining_job.parts import Job
from lavis_mafa.reports.table import write_json

FOUND_BY = ("annotation", "people", "judge")


def write_test_set(path: Path, job: Job, by_people: Labelled | None) -> dict[str, int]:
    """Write the file; returns how many matches come from whom, and how many candidates are left unsure."""
    pairs = matches(job, by_people)
    corpus = job.corpus
    texts = corpus.rows(pairs["record"].to_numpy(), pairs["text"].to_numpy())
    pairs["image"], pairs["caption"] = texts["image"].to_pylist(), texts["caption"].to_pylist()
    counts = {name: int((pairs["by"] == name).sum()) for name in FOUND_BY}
    counts["unsure"] = len(unsure(job, by_people))
    settings = job.cfg.run_cfg
    about = {"retrievers": list(settings.retrievers), "judge": job.mined.store.fingerprint}
    about |= {"low": job.rule.low, "high": job.rule.high}
    images, captions = (_listed(pairs, *way) for way in (("image", "caption"), ("caption", "image")))
    write_json(path, {**header("test_set"), **about, "found_by": counts, "images": images, "captions": captions})
    return counts


def matches(job: Job, by_people: Labelled | None) -> pd.DataFrame:
    """Every pair that matches, once: record, text, by, p. What is annotated stands; people overrule the judge."""
    corpus, mined, pairs = job.corpus, job.mined, job.mined.candidates
    annotated = np.union1d(packed(corpus.own_record_P, corpus.own_text_P), corpus.hidden_H)
    labels = _labels(job, by_people)
    key_K = packed(pairs.record_K, pairs.text_K)
    judged_K = (mined.verdict_K == CONNECTION) & ~np.isin(key_K, labels.index)
    parts = [
        pd.DataFrame({"key": annotated, "by": "annotation"}),
        pd.DataFrame({"key": labels.index[labels.to_numpy()], "by": "people"}),
        pd.DataFrame({"key": key_K[judged_K], "by": "judge"}),
    ]
    found = pd.concat(parts, ignore_index=True).drop_duplicates("key")
    p_of = pd.Series(mined.p_K.astype(float), index=key_K)
    record, text = unpacked(found["key"].to_numpy(np.int64))
    found = found.assign(record=record, text=text, p=p_of.reindex(found["key"]).to_numpy())
    return found.sort_values("key", ignore_index=True)


def unsure(job: Job, by_people: Labelled | None) -> np.ndarray:
    """Places of the candidates that the judge is not sure about and nobody has labelled."""
    pairs, labels = job.mined.candidates, _labels(job, by_people)
    open_K = (job.mined.verdict_K == AMBIGUOUS) & ~np.isin(packed(pairs.record_K, pairs.text_K), labels.index)
    return np.flatnonzero(open_K)


def _labels(job: Job, by_people: Labelled | None) -> pd.Series[bool]:
    """Labels of people by packed pair: judged pairs, and over them the review."""
    labels: dict[int, bool] = {}
    if job.judged is not None:
        asked_P = job.judged.at_P >= 0
        keys = job.judged.key_A[job.judged.at_P[asked_P]].tolist()
        labels.update(zip(keys, job.judged.pairs.pairs["label"].to_numpy(bool)[asked_P].tolist(), strict=True))
    if by_people is not None:
        pairs = job.mined.candidates
        keys = packed(pairs.record_K[by_people.at_L], pairs.text_K[by_people.at_L]).tolist()
        labels.update(zip(keys, by_people.true_L.tolist(), strict=True))
    return pd.Series(list(labels.values()), index=np.array(list(labels), np.int64), dtype=bool)


def _listed(pairs: pd.DataFrame, query: str, item: str) -> dict[str, list[dict[str, object]]]:
    """{query: its matches}, each with who says so and P(match), where it was a candidate."""

    def rows() -> Iterator[tuple[str, dict[str, object]]]:
        columns = (pairs[name].tolist() for name in (query, item, "by", "p"))
        for asked, found, by, p in zip(*columns, strict=True):
            yield asked, {item: found, "by": by, **({} if np.isnan(p) else {"p": round(p, 6)})}

    listed: dict[str, list[dict[str, object]]] = {}
    for asked, row in rows():
        listed.setdefault(asked, []).append(row)
    return listed
