"""Image-text retrieval over a whole test set: every image against every caption, then ITM over the k best of each.

Every rank encodes its share of images and captions and matches the pairs of its images, each sample once; all ranks
end with the same scores.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypedDict, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Subset, default_collate

from lavis_mafa.common.loading import WatchedLoader
from lavis_mafa.common.precision import full_float32
from lavis_mafa.common.progress import progress
from lavis_mafa.common.ranks import gathered, shard
from lavis_mafa.core.batch import Batch, on_device
from lavis_mafa.data.dataset import RetrievalDataset, Sample, image_named
from lavis_mafa.evaluation.eccv import MOST_POSITIVES, CocoIds, eccv_figures
from lavis_mafa.evaluation.relevance import BLOCK, Figures, Relevance, Rows, blocks, figures
from lavis_mafa.evaluation.test_set import TestSet
from lavis_mafa.models.protocols import Encoder, Matcher
from lavis_mafa.models.text import CaptionTokens
from lavis_mafa.scorers.pair_blocks import BLOCK as PAIRS
from lavis_mafa.scorers.pair_blocks import by_image, pair_blocks

T = TypeVar("T")
Split = RetrievalDataset | Subset[Sample]
Stage = Literal["itc", "itm"]
TEXT_BATCH = 256
TOKEN_BYTES = 4 << 30
CPU = torch.device("cpu")
OUT = -100.0  # the score of what is not re-ranked, as in LAVIS


class RetrievalFigures(TypedDict, total=False):
    """{relevance or metric: {image | text: {figure: percent}}}, by ITC and re-ranked by ITM."""

    itc: Figures
    itm: Figures
    at_r: dict[str, Figures]
    eccv: dict[str, dict[str, dict[str, float]]]


@dataclass
class Gallery:
    """An encoded test set. `image_feat` (N, Q, D); `text_feat` (C, D); `tokens`: tower tokens (n, L, V) of the rank's
    `own` images alone, n of the N: they are too large to be held by every rank, or, above TOKEN_BYTES, at all.
    `text_tokens`: of all C captions, for ITM; None for a model without."""

    tokens: Tensor | TokensAgain
    own: range
    image_feat: Tensor
    text_feat: Tensor
    text_tokens: CaptionTokens | None
    device: torch.device = CPU  # where similarities are computed, block by block

    def rows_of(self, images: range, image_P: np.ndarray) -> np.ndarray:
        """The rows of image_P (P,), in rising order, that name one of these images."""
        return np.flatnonzero((image_P >= images.start) & (image_P < images.stop))

    def similarity(self, block: int = 256) -> Tensor:
        """Cosine of image and caption, the maximum over an image's queries (N, C)."""
        rows = [torch.from_numpy(self.of_images(images)) for images in blocks(len(self.image_feat), block)]
        return torch.cat(rows)

    def of_images(self, images: range) -> np.ndarray:
        """(b, C): the rows of these images."""
        return self._similar("nqd,cd->ncq", self.image_feat[images.start : images.stop], self.text_feat)

    def of_texts(self, texts: range) -> np.ndarray:
        """(b, N): the columns of these captions, a caption a row."""
        return self._similar("cd,nqd->cnq", self.text_feat[texts.start : texts.stop], self.image_feat)

    def _similar(self, products: str, part: Tensor, others: Tensor) -> np.ndarray:
        part, split = part.to(self.device), torch.split(others, BLOCK)
        with full_float32(self.device.type):
            found = [torch.einsum(products, part, other.to(self.device)).amax(-1) for other in split]
        return torch.cat(found, dim=1).cpu().numpy()


@dataclass
class TokensAgain:
    """Tower tokens of images, computed when they are asked for, where they are too many to be kept."""

    model: Encoder
    dataset: Split
    own: range
    device: torch.device

    def __getitem__(self, rows: np.ndarray) -> Tensor:
        batch: Batch = default_collate([self.dataset[self.own[int(row)]] for row in rows])
        return self.model.vision_tokens(on_device(batch, self.device)).cpu()


@torch.no_grad()
def encode_gallery(
    model: Matcher,
    dataset: Split,
    batch_size: int,
    workers: int,
    device: torch.device,
    texts: Sequence[str] | None = None,
    token_bytes: int = TOKEN_BYTES,
) -> Gallery:
    """Every image of the data set and every caption, its own or the given (processed) `texts`, encoded once.

    token_bytes: the most that a rank keeps of tower tokens, for ITM; if they are more, they are computed again.
    """
    if texts is None:
        assert not isinstance(dataset, Subset), "a part of a data set comes with its texts"
        texts = dataset.text
    own, own_texts = shard(len(dataset)), shard(len(texts))
    loader = WatchedLoader(
        Subset(dataset, own), batch_size=batch_size, num_workers=workers, name_of=image_named(dataset, own)
    )
    tokens, features = [], []
    for batch in progress(loader, desc="images", unit="batch", leave=False):
        seen = model.vision_tokens(on_device(batch, device))
        if seen[0].nbytes * len(own) <= token_bytes:
            tokens.append(seen.cpu())
        features.append(model.encode_image(seen)[1].cpu())
    text_feat, text_tokens = [], []
    for start in progress(range(0, len(own_texts), TEXT_BATCH), desc="captions", unit="batch", leave=False):
        words = model.tokenize([texts[text] for text in own_texts[start : start + TEXT_BATCH]])
        text_feat.append(model.encode_text(words).cpu())
        if model.has_itm:
            text_tokens.append(CaptionTokens.of(words).to("cpu"))
    own_tokens = torch.cat(tokens) if tokens else TokensAgain(model, dataset, own, device)
    table = CaptionTokens.joined(_of_all_ranks(text_tokens)) if model.has_itm else None
    feats = torch.cat(_of_all_ranks(features)), torch.cat(_of_all_ranks(text_feat))
    return Gallery(own_tokens, own, *feats, table, device)


def _of_all_ranks(parts: list[T]) -> list[T]:
    return [part for parts_of_rank in gathered(parts) for part in parts_of_rank]


@torch.no_grad()
def match_scores(
    model: Matcher, gallery: Gallery, image_P: np.ndarray, text_P: np.ndarray, device: torch.device, chunk: int = PAIRS
) -> np.ndarray:
    """ITM logits (P, 2) of the pairs, in their order; `chunk` of them in a pass."""
    assert gallery.text_tokens is not None, "a model without a matching head has no pairs to match"
    logits = np.empty((len(image_P), 2), dtype=np.float32)
    own_rows = gallery.rows_of(gallery.own, image_P)
    image_K, text_K = torch.from_numpy(image_P[own_rows] - gallery.own.start), torch.from_numpy(text_P[own_rows])
    for window_K in progress(by_image(image_K), desc="ITM pairs", unit="window", leave=False):
        image_N, image_of_K = torch.unique(image_K[window_K], return_inverse=True)
        tokens_NLV = gallery.tokens[image_N.numpy()].float().to(device)
        for block in pair_blocks(image_of_K, text_K[window_K], gallery.text_tokens.length_C, chunk):
            tokens = gallery.text_tokens.block(block.text_C).to(device)
            state = model.pair_state(tokens_NLV[block.image_N], tokens)
            found = model.match_logits(state, block.image_of_k.to(device), block.text_of_k.to(device))
            logits[own_rows[window_K[block.rows_k]]] = found.float().cpu().numpy()
    return rows_of_all_ranks(own_rows, logits)


def rows_of_all_ranks(own_rows: np.ndarray, values_P: np.ndarray) -> np.ndarray:
    """values (P, …), of which every rank knows its own rows, filled from all ranks."""
    for rows, values in gathered((own_rows, values_P[own_rows])):
        values_P[rows] = values
    return values_P


@dataclass
class Shortlist:
    """Of every query the k candidates that are re-ranked, `item` (Q, k) of `width`, and their scores (Q, k)."""

    item: np.ndarray
    score: np.ndarray
    width: int

    def of(self, queries: range) -> np.ndarray:
        """(b, width): scores of these queries, what is not in the list behind."""
        rows = slice(queries.start, queries.stop)
        scores = np.full((len(queries), self.width), OUT, dtype=np.float32)
        np.put_along_axis(scores, self.item[rows], self.score[rows], axis=1)
        return scores


def reranked(model: Matcher, gallery: Gallery, k: int, device: torch.device) -> tuple[Shortlist, Shortlist]:
    """LAVIS' re-ranking: the k best of a row get ITM logit + similarity, the rest fall behind. Of images, of texts."""
    images, texts = len(gallery.image_feat), len(gallery.text_feat)
    lists = _shortlist(gallery.of_images, images, texts, k), _shortlist(gallery.of_texts, texts, images, k)
    asked = [np.repeat(np.arange(len(found.item)), found.item.shape[1]) for found in lists]
    keys = asked[0] * texts + lists[0].item.ravel(), lists[1].item.ravel() * texts + asked[1]
    pairs, where = np.unique(np.concatenate(keys), return_inverse=True)  # a pair may be in both lists
    logit = match_scores(model, gallery, pairs // texts, pairs % texts, device)[where, 1]
    for found, own in zip(lists, np.split(logit, [len(keys[0])]), strict=True):
        found.score += own.reshape(found.score.shape)
    return lists


def _shortlist(rows: Rows, queries: int, width: int, k: int) -> Shortlist:
    items, scores = [], []
    for block in blocks(queries):
        sim_bW = rows(block)
        best_bk = np.argpartition(-sim_bW, min(k, width) - 1, axis=1)[:, :k]
        items.append(best_bk)
        scores.append(np.take_along_axis(sim_bW, best_bk, 1))
    return Shortlist(np.concatenate(items), np.concatenate(scores), width)


def evaluate_retrieval(
    model: Matcher,
    dataset: RetrievalDataset,
    *,
    batch_size: int,
    workers: int,
    device: torch.device,
    k_test: int,
    coco: CocoIds | None = None,
    test_set: TestSet | None = None,
) -> RetrievalFigures:
    """R@1/5/10 in percent, both ways, by ITC and (k_test > 0) re-ranked by ITM; by annotation and, if known, truth and
    test_set.

    `at_r`: R-precision and mAP@R where a query has several positives; `eccv`: with the ids of COCO's test images,
    ECCV Caption and CxC. No matrix of all pairs is made.
    """
    model.eval()
    gallery = encode_gallery(model, dataset, batch_size, workers, device, token_bytes=TOKEN_BYTES if k_test > 0 else 0)
    scores: dict[Stage, tuple[Rows, Rows]] = {"itc": (gallery.of_images, gallery.of_texts)}
    if k_test > 0:
        images, texts = reranked(model, gallery, k_test, device)
        scores["itm"] = images.of, texts.of
    relevance = Relevance(dataset, test_set)
    results: RetrievalFigures = {}
    at_r: dict[str, Figures] = {}
    for stage, rows in scores.items():
        results[stage], at_r[stage] = figures(*rows, relevance)
    if any(at_r.values()):
        results["at_r"] = at_r
    if coco is not None:
        deep = {stage: rows for stage, rows in scores.items() if stage == "itc" or k_test >= MOST_POSITIVES}
        results["eccv"] = {stage: eccv_figures(*rows, coco) for stage, rows in deep.items()}
    return results
