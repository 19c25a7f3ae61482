"""How well a model and Con-D tell false negatives from hard true negatives, on pairs that people judged.

Tested in tests/jobs/test_judgments.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch.utils.data import Subset

from lavis_mafa.core.batch import Batch
from lavis_mafa.core.metrics import average_precision, roc_auc
from lavis_mafa.core.scorer import PairScorer, reads_tokens, same_view, view_of
from lavis_mafa.data.dataset import RetrievalDataset
from lavis_mafa.data.identity import clean_path
from lavis_mafa.data.readers import rows_of
from lavis_mafa.data.records import RecordTable
from lavis_mafa.evaluation.retrieval import Gallery, encode_gallery, match_scores, rows_of_all_ranks
from lavis_mafa.models.protocols import Matcher, Student
from lavis_mafa.scorers.registry import ScorerRequest, Section, build_scorer, judge_of

KINDS = ("false_negative", "hard_true_negative")
DESCRIBES = 3  # an expert's grade from which the caption fits; 1: it is unrelated, 4: it describes the image
IMAGE_BLOCK = 32  # images of one pass of Con-D


@dataclass(frozen=True)
class JudgedPairs:
    """P judged pairs over I images and T captions.

    record_I: the split's record of every image; captions: (T,) raw; pairs: (P,) rows of image (0..I-1), text (0..T-1),
    label (bool: people say it matches), kind, and unanimous (bool: every vote of the row agrees with its label).
    """

    record_I: NDArray[np.int64]
    captions: list[str]
    pairs: pd.DataFrame

    def selections(self) -> dict[str, NDArray[np.bool_]]:
        """The pairs (P,) that a figure is taken over; one without a match or without a mismatch is left out."""
        hard, sure = self.pairs["kind"].isin(KINDS).to_numpy(), self.pairs["unanimous"].to_numpy()
        every = np.ones_like(hard)
        masks = {"all": hard, "unanimous": hard & sure, "any_kind": every, "any_kind_unanimous": sure}
        return {name: mask for name, mask in masks.items() if self.pairs["label"][mask].nunique() == 2}


def read_judged_pairs(file: str | Path, table: RecordTable) -> JudgedPairs:
    """Judged pairs from a JSON list of {image, caption, label: 0 | 1, kind, and votes}, about the images of `table`.

    Votes are the crowd's `cf_yes` and `cf_no` (counts), or `expert` (grades of 1 to 4; 3 and 4 say that it fits), or
    both. A row is unanimous if no vote of either kind speaks against its label; so 2 of 3 is not.
    ValueError, naming file and row: no such file, broken JSON, something missing or not allowed, an image that `table`
    lacks, no `false_negative` beside a `hard_true_negative`.
    """
    file = Path(file).expanduser()
    if not file.is_file():
        raise ValueError(f"run.judged_pairs: no file at {file}; set it to a JSON list of judged pairs, or to null")
    record_of = {table.image(record): record for record in range(table.n_records)}
    rows = []
    for place, row in rows_of(file):
        try:
            rows.append(_judged(row, record_of))
        except ValueError as error:
            raise ValueError(f"{file}, {place}: {error}") from None
    read = pd.DataFrame(rows, columns=["record", "caption", "label", "kind", "unanimous"])
    image_P, record_I = pd.factorize(read["record"])
    text_P, caption_T = pd.factorize(read["caption"])
    pairs = read[["label", "kind", "unanimous"]].assign(image=image_P, text=text_P)
    judged = JudgedPairs(np.asarray(record_I, dtype=np.int64), list(caption_T), pairs)
    if "all" not in judged.selections():
        raise ValueError(
            f"{file}: there must be pairs of kind {KINDS[0]} with label 1 and of kind {KINDS[1]} with label 0"
        )
    return judged


def _judged(row: object, record_of: Mapping[str, int]) -> tuple[int, str, bool, str, bool]:
    if not isinstance(row, Mapping):
        raise ValueError(f"a row must be an object, not {row!r:.80}")
    missing = [key for key in ("image", "caption", "label", "kind") if key not in row]
    if missing:
        raise ValueError(f"lacks {', '.join(missing)}")
    for key in ("image", "caption", "kind"):
        if not isinstance(row[key], str) or not row[key].strip():
            raise ValueError(f"{key!r} must be a non-empty string, not {row[key]!r:.80}")
    if row["label"] not in (0, 1):
        raise ValueError(f"'label' must be 1 (a match) or 0, not {row['label']!r:.80}")
    label = bool(row["label"])
    record = record_of.get(clean_path(row["image"]))
    unanimous = all(vote == label for vote in _votes(row))
    if record is None:
        raise ValueError(
            f"image {row['image']!r} is not in the split that run.judged_pairs refers to (the first of "
            "run.test_splits, "
            "or run.split when mining); add it there, remove the row, or set run.judged_pairs: null"
        )
    return record, row["caption"], label, row["kind"], unanimous


def _votes(row: Mapping[str, object]) -> list[bool]:
    """The vote of every person: whether the caption fits the image."""
    crowd = [row.get(key, 0) for key in ("cf_yes", "cf_no")]
    experts = row.get("expert", [])
    counts = [count for count in crowd if type(count) is int and count >= 0]
    if len(counts) < len(crowd):
        raise ValueError(f"'cf_yes' and 'cf_no' must be counts of votes, not {crowd!r:.80}")
    if not isinstance(experts, list) or not all(grade in (1, 2, 3, 4) for grade in experts):
        raise ValueError(f"'expert' must be a list of grades from 1 to 4, not {experts!r:.80}")
    votes = [True] * counts[0] + [False] * counts[1] + [grade >= DESCRIBES for grade in experts]
    if not votes:
        raise ValueError("lacks votes: add cf_yes and cf_no, or expert")
    return votes


def evaluate_judgments(
    model: Matcher,
    dataset: RetrievalDataset,
    judged: JudgedPairs,
    con_d: PairScorer | None,
    *,
    batch_size: int,
    workers: int,
    device: torch.device,
) -> dict[str, dict[str, dict[str, float]]]:
    """{all | unanimous | any_kind | any_kind_unanimous: {itc | itm | con_d: {auc, ap, pairs, positives}}}.

    `all` and `unanimous` tell false negatives from hard true negatives; `any_kind` every match from every mismatch of
    the file. Of auc and ap a share in [0, 1]; pairs counts both sides, positives the matches. dataset: the split that
    `judged` was read for; each of its judged images, and each caption, is encoded once.
    """
    model.eval()
    texts = [dataset.text_processor(caption) for caption in judged.captions]
    gallery = encode_gallery(model, Subset(dataset, judged.record_I.tolist()), batch_size, workers, device, texts)
    image_P, text_P = judged.pairs["image"].to_numpy(), judged.pairs["text"].to_numpy()
    scores = {"itc": gallery.similarity().numpy()[image_P, text_P]}
    if model.has_itm:
        logits = match_scores(model, gallery, image_P, text_P, device)
        scores["itm"] = logits[:, 1] - logits[:, 0]  # orders pairs as P(match) does, without its ties near 0 and 1
    if con_d is not None:
        scores["con_d"] = con_d_scores(con_d, dataset, judged, gallery, device)
    label_P = judged.pairs["label"].to_numpy()
    return {
        name: {scorer: _figures(label_P[mask], score_P[mask]) for scorer, score_P in scores.items()}
        for name, mask in judged.selections().items()
    }


def _figures(label_P: NDArray[np.bool_], score_P: NDArray[np.floating]) -> dict[str, float]:
    return {
        "auc": roc_auc(label_P, score_P),
        "ap": average_precision(label_P, score_P),
        "pairs": len(label_P),
        "positives": int(label_P.sum()),
    }


def con_d_scores(
    con_d: PairScorer, dataset: RetrievalDataset, judged: JudgedPairs, gallery: Gallery, device: torch.device
) -> NDArray[np.float32]:
    """P(match) (P,) by a judge: from the gallery's tokens where tower and view are shared, else from its own view."""
    image_P, text_P = (judged.pairs[name].to_numpy() for name in ("image", "text"))
    view = view_of(con_d)
    shared = view is not None and reads_tokens(con_d) and same_view(view, dataset.vis_processor)
    p_P = np.empty(len(image_P), dtype=np.float32)
    own = gallery.own
    for start in range(0, len(own), IMAGE_BLOCK):
        block = own[start : start + IMAGE_BLOCK]
        image_id = torch.from_numpy(dataset.table.image_id[judged.record_I[block]])
        batch: Batch = {"caption": judged.captions, "image_id": image_id}
        if shared:
            batch["image_tokens"] = gallery.tokens[np.arange(start, start + len(block))].float().to(device)
        elif view is not None:
            images = [view(dataset.open_image(record)) for record in judged.record_I[block].tolist()]
            batch["judge_image"] = torch.stack(images).to(device)
        rows = gallery.rows_of(block, image_P)
        image_K, text_K = (torch.from_numpy(at).to(device) for at in (image_P[rows] - block.start, text_P[rows]))
        p_P[rows] = con_d.score(batch, image_K, text_K).cpu().numpy()
    return rows_of_all_ranks(gallery.rows_of(own, image_P), p_P)


def configured_judge(
    model: Student, section: Section | None, dataset: RetrievalDataset, device: torch.device
) -> PairScorer | None:
    """The judge of `run.con_d` for the records of `dataset`; None for one that serves in training alone.

    A network judges whatever it is shown, so the one that mined in this run serves again.
    """
    if not section or judge_of(section).training_only:
        return None
    mined = model.miner.scorer
    if judge_of(section).is_model and mined is not None:
        return mined
    return build_scorer(ScorerRequest(section, "run.con_d", device, model.mafa, dataset, model))
