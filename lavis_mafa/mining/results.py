"""Outputs of mining: connections.parquet, suspects.csv and the figures of summary.json. Symbols as in engine.py."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from lavis_mafa.common.artifacts import atomic_write
from lavis_mafa.common.spreadsheets import write_csv
from lavis_mafa.core.pairs import CONNECTION, NEGATIVE, VERDICTS, judge
from lavis_mafa.core.settings import MafaSettings
from lavis_mafa.data.dataset import TruthFunction
from lavis_mafa.mining.corpus import Corpus
from lavis_mafa.mining.engine import Mined
from lavis_mafa.mining.review import Labelled, precision_recall

RECALL = 0.8  # at which the precision of the surest candidates is reported
CHUNK = 65_536  # rows that are strings at a time

Ints = NDArray[np.int64]


def candidate_rows(corpus: Corpus, mined: Mined, at_L: Ints) -> pa.Table:
    """The candidates at these places, as connections.parquet has them."""
    pairs, text_L = mined.candidates, mined.candidates.text_K[at_L]
    similarity_L = pairs.similarity_K[at_L]
    by_person_L = np.zeros(len(at_L), np.bool_) if mined.by_person_K is None else mined.by_person_K[at_L]
    return corpus.rows(
        pairs.record_K[at_L],
        text_L,
        similarity=pa.array(similarity_L, mask=np.isnan(similarity_L)),
        rank_of_text=_rank(pairs.rank_of_text_K[at_L]),
        rank_of_image=_rank(pairs.rank_of_image_K[at_L]),
        p=mined.p_K[at_L],
        verdict=pa.array([VERDICTS[verdict] for verdict in mined.verdict_K[at_L].tolist()], pa.string()),
        verdict_by=pa.array(np.where(by_person_L, "person", "judge").tolist(), pa.string()),
        record=pairs.record_K[at_L].astype(np.int64),  # with text_row the pair's key in the ConnectionStore
        text_row=corpus.text_row_T[text_L],
    )


def _rank(rank_L: NDArray[np.int32]) -> pa.Array:
    return pa.array(rank_L, mask=rank_L == 0)


def write_connections(path: Path, corpus: Corpus, mined: Mined, fingerprint: str) -> None:
    """Write connections.parquet: all candidates with scores and verdicts.

    Args:
        path: the file to write.
        corpus: the records.
        mined: what was mined.
        fingerprint: of data and networks, for the file's metadata.
    """
    schema = candidate_rows(corpus, mined, np.empty(0, np.int64)).schema.with_metadata({"fingerprint": fingerprint})
    with atomic_write(path) as file, pq.ParquetWriter(file, schema) as writer:
        for start in range(0, len(mined.p_K), CHUNK):
            at = np.arange(start, min(start + CHUNK, len(mined.p_K)))
            writer.write_table(candidate_rows(corpus, mined, at).cast(schema))


def suspects(mined: Mined, rule: MafaSettings) -> Ints:
    """Places of the own pairs that Con-D takes for negatives, the least likely first: suspected false positives."""
    at_S = np.flatnonzero(judge(mined.own_p_P, rule.low, rule.high) == NEGATIVE)
    return at_S[np.argsort(mined.own_p_P[at_S], kind="stable")]


def write_suspects(path: Path, corpus: Corpus, mined: Mined, at_S: Ints) -> None:
    """The annotated pairs that the judge doubts, as a CSV.

    Args:
        path: the file to write.
        corpus: the records.
        mined: what was mined.
        at_S: (S,) places of the doubted pairs, in the order of the file.
    """
    similarity, p = mined.own_similarity_P[at_S], mined.own_p_P[at_S]
    table = corpus.rows(corpus.own_record_P[at_S], corpus.own_text_P[at_S], similarity=similarity, p=p)
    write_csv(path, table.to_pandas())


def totals(corpus: Corpus, mined: Mined, rule: MafaSettings) -> dict[str, object]:
    """Counts that reconcile: candidates = connections + ambiguous + negatives."""
    count = {word: int((mined.verdict_K == verdict).sum()) for verdict, word in VERDICTS.items()}
    connected = mined.verdict_K == CONNECTION
    return {
        "images": corpus.n_images,
        "captions": corpus.table.n_captions,
        "distinct_captions": corpus.n_texts,
        "candidates": len(mined.p_K),
        "connections": count["connection"],
        "ambiguous": count["ambiguous"],
        "negatives": count["negative"],
        "images_with_connections": len(np.unique(mined.candidates.record_K[connected])),
        "own_pairs": len(mined.own_p_P),
        "suspected_false_positives": len(suspects(mined, rule)),
        "recall_of_candidates": mined.recall,
    }


def labelled_by_truth(corpus: Corpus, mined: Mined, truth: TruthFunction) -> Labelled:
    """Every candidate with its truth."""
    pairs = mined.candidates
    true_K = truth(pairs.record_K, corpus.text_row_T[pairs.text_K])
    return Labelled(np.arange(len(true_K)), true_K, np.ones(len(true_K)))


def coverage(corpus: Corpus, mined: Mined, truth: TruthFunction, block: int = 256) -> float | None:
    """True matches among the candidates over all true matches that are not annotated.

    Args:
        corpus: the records.
        mined: what was mined.
        truth: (records, caption rows) → bool, which pairs match; the two broadcast.
        block: records at a time.

    Returns:
        A share, or None where nothing matches.
    """
    matches = 0
    for start in range(0, corpus.n_images, block):
        records = np.arange(start, min(start + block, corpus.n_images))
        matches += int(truth(records[:, None], corpus.text_row_T[None, :]).sum())
    own = int(truth(corpus.own_record_P, corpus.text_row_T[corpus.own_text_P]).sum())
    among = int(labelled_by_truth(corpus, mined, truth).true_L.sum())
    return among / (matches - own) if matches > own else None


def against_siblings(corpus: Corpus, mined: Mined) -> dict[str, float | None]:
    """Hidden captions: how many are candidates (coverage), connections of these (recall) and of all (found)."""
    hidden = len(corpus.hidden_H)
    sibling_K = corpus.is_hidden(mined.candidates.record_K, mined.candidates.text_K)
    candidates, connections = int(sibling_K.sum()), int((sibling_K & (mined.verdict_K == CONNECTION)).sum())
    return {
        "hidden": hidden,
        "candidates": candidates,
        "connections": connections,
        "coverage": _ratio(candidates, hidden),
        "recall": _ratio(connections, candidates),
        "found": _ratio(connections, hidden),
    }


def quality(mined: Mined, labelled: Labelled) -> dict[str, object]:
    """Weighted precision and recall of the connections over the labelled candidates, and the precision at a recall of
    four fifths. weighted: labels stand for different numbers of candidates. connections: so many of the labelled are;
    precision_95: the interval that holds their precision with 95 % confidence; base_rate: the share of all labelled
    candidates that match, what a random choice would reach."""
    connected_L = mined.verdict_K[labelled.at_L] == CONNECTION
    weight_L, true_L = labelled.weight_L, labelled.true_L
    hits = float(weight_L[connected_L & true_L].sum())
    curve = precision_recall(mined.p_K[labelled.at_L], labelled)
    reached = curve["precision"][curve["recall"] >= RECALL]
    return {
        "labelled": len(labelled.at_L),
        "labelled_outside_the_candidates": labelled.outside,
        "weighted": bool(len(weight_L) and np.ptp(weight_L) > 0),
        "connections": int(connected_L.sum()),
        "precision": _ratio(hits, float(weight_L[connected_L].sum())),
        "precision_95": wilson(true_L[connected_L], weight_L[connected_L]),
        "base_rate": _ratio(float(weight_L[true_L].sum()), float(weight_L.sum())),
        "recall": _ratio(hits, float(weight_L[true_L].sum())),
        f"precision_at_recall_{RECALL}": float(reached.iloc[0]) if len(reached) else None,
    }


def wilson(true_L: NDArray[np.bool_], weight_L: NDArray[np.float64]) -> tuple[float, float] | None:
    """The 95 % interval of a share (Wilson 1927, eq. 3); of weighted labels, by their effective number (Kish 1965,
    section 8.2), (sum w)^2 / sum w^2. None without labels."""
    if not len(true_L):
        return None
    number = float(weight_L.sum() ** 2 / (weight_L**2).sum())
    share, z2 = float(weight_L[true_L].sum() / weight_L.sum()), 1.959964**2
    middle, spread = share + z2 / (2 * number), (z2 * (share * (1 - share) + z2 / (4 * number)) / number) ** 0.5
    return max(0.0, (middle - spread) / (1 + z2 / number)), min(1.0, (middle + spread) / (1 + z2 / number))


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if whole else None


def connected_captions(corpus: Corpus, mined: Mined) -> dict[int, list[str]]:
    """image_id → the captions connected with it and not yet annotated to it, each once, the surest first."""
    pairs = mined.candidates
    new_K = (mined.verdict_K == CONNECTION) & ~corpus.is_hidden(pairs.record_K, pairs.text_K)
    rows = candidate_rows(corpus, mined, np.flatnonzero(new_K))
    frame: pd.DataFrame = rows.select(["image_id", "text_id", "caption", "p"]).to_pandas()
    frame = frame.sort_values("p", ascending=False, kind="stable").drop_duplicates(["image_id", "text_id"])
    found: dict[int, list[str]] = {}
    for image, caption in zip(frame["image_id"].tolist(), frame["caption"].tolist(), strict=True):
        found.setdefault(image, []).append(caption)
    return found
