"""Which captions belong to which images, and the figures of a ranking, block by block, never for all pairs at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from lavis_mafa.core.metrics import query_figures, summary
from lavis_mafa.data.dataset import RetrievalDataset
from lavis_mafa.evaluation.test_set import TestSet

BLOCK = 256  # queries ranked at a time: with a gallery of 100,000, 0.1 GB a matrix
Figures = dict[str, dict[str, dict[str, float]]]
Rows = Callable[[range], np.ndarray]  # scores of these queries with everything


class Relevance:
    """Which captions belong to which images, block by block: by annotation, if the data set knows it in truth, and by a
    test set with further matches."""

    def __init__(self, dataset: RetrievalDataset, test_set: TestSet | None = None) -> None:
        self.test_set = test_set
        self.images, self.texts, self.truth = len(dataset), len(dataset.text), dataset.truth
        self.image_of = np.array([dataset.txt2img[text] for text in range(self.texts)])

    def of_images(self, images: range) -> dict[str, np.ndarray]:
        """{name: (b, C)}"""
        return self._named(np.array(images)[:, None], np.arange(self.texts)[None, :])

    def of_texts(self, texts: range) -> dict[str, np.ndarray]:
        """{name: (b, N)}"""
        return self._named(np.arange(self.images)[None, :], np.array(texts)[:, None])

    def _named(self, image: np.ndarray, text: np.ndarray) -> dict[str, np.ndarray]:
        own = self.image_of[text] == image
        named = {"annotation": own}
        if self.truth is not None:
            named["truth"] = self.truth(image, text) | own
        if self.test_set is not None:
            named["test_set"] = self.test_set.matches(image, text) | own
        return named


def annotated(dataset: RetrievalDataset) -> np.ndarray:
    """(N, C): the captions annotated to an image."""
    return Relevance(dataset).of_images(range(len(dataset)))["annotation"]


def truth_mask(dataset: RetrievalDataset) -> np.ndarray:
    """(N, C): the captions that hold of an image."""
    return Relevance(dataset).of_images(range(len(dataset)))["truth"]


def blocks(queries: int, size: int | None = None) -> Iterator[range]:
    """The queries, `size` or BLOCK at a time."""
    size = size or BLOCK
    for start in range(0, queries, size):
        yield range(start, min(start + size, queries))


def figures(of_images: Rows, of_texts: Rows, relevance: Relevance) -> tuple[Figures, Figures]:
    """({relevance: {image | text: recalls}}, the same with R-precision and mAP@R where a query has several positives).

    `text`: captions found for an image (TR); `image`: images found for a caption (IR).
    """
    ways = {
        "image": (of_texts, relevance.texts, relevance.of_texts),
        "text": (of_images, relevance.images, relevance.of_images),
    }
    recalls: Figures = {}
    at_r: Figures = {}
    for way, (rows, queries, relevant) in ways.items():
        parts: dict[str, list[np.ndarray]] = {}
        for block in blocks(queries):
            sim_bW = rows(block)
            for name, positive_bW in relevant(block).items():
                parts.setdefault(name, []).append(query_figures(sim_bW, positive_bW))
        for name, found in parts.items():
            recall, precision = summary(np.concatenate(found, axis=1))
            recalls.setdefault(name, {})[way] = recall
            if precision:
                at_r.setdefault(name, {})[way] = precision
    return recalls, at_r
