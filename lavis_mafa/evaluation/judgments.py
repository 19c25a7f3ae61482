"""How well a model and Con-D tell false negatives from hard true negatives, on pairs that people judged.

Tested in tests/jobs/test_judgments.py.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Subset

from lavis_mafa.core.batch import Batch
from lavis_mafa.core.metrics import average_precision, roc_auc
from lavis_mafa.core.scorer import PairScorer, reads_tokens, same_view, view_of
from lavis_mafa.data.dataset import RetrievalDataset
from lavis_mafa.evaluation.judged_pairs import JudgedPairs
from lavis_mafa.evaluation.retrieval import Gallery, encode_gallery, match_scores, rows_of_all_ranks
from lavis_mafa.models.protocols import Matcher, Student
from lavis_mafa.scorers.registry import ScorerRequest, Section, build_scorer, judge_of

IMAGE_BLOCK = 32  # images of one pass of Con-D


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
        image_K, text_K = (torch.from_numpy(at) for at in (image_P[rows] - block.start, text_P[rows]))
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
