"""What a judge of pairs must be: `fingerprint` and `score`; all else is optional. Tested in tests/core/test_miner.py.

A batch is a mapping that holds, at the positions that a scorer is asked about:

    caption      raw text; `text_id`, `text_row` (the data set's caption), if known, int64
    judge_image  the images: as the scorer's own `view` makes them, or as the model in training has them;
                 indexed by positions, (K,) → (K, 3, h, w). Absent where that model reads cached
                 tokens and the scorer has no view
    image_id, index  int64: which image it is, and which record of the data set, if known

In training, position t holds the image and the caption of one pair. Where any pair may be asked about (mining, judged
pairs), images and captions are two lists, and their positions say nothing of each other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

from PIL.Image import Image
from torch import Tensor

from lavis_mafa.core.batch import Batch

View = Callable[[Image], Tensor]  # RGB → tensor


@runtime_checkable
class PairScorer(Protocol):
    """Gives P(match) of pairs of a batch: a frozen Con-D, a bi-encoder, the model's own head, a file of verdicts."""

    @property
    def fingerprint(self) -> str | None:
        """What its scores hang on: weights, preparation, whatever changes them. None where that changes as the model
        trains, so that no store may keep them."""
        ...

    def score(self, batch: Batch, image_K: Tensor, text_K: Tensor) -> Tensor:
        """(K,) P(match) in [0, 1] of image image_K[k] with text text_K[k], positions in the batch (see above), on the
        CPU; the answer may be on any device."""
        ...


@runtime_checkable
class SeeingScorer(PairScorer, Protocol):
    """A scorer that has its own view of an image: its size, its normalisation, nothing augmented."""

    @property
    def view(self) -> View: ...


@runtime_checkable
class TowerScorer(SeeingScorer, Protocol):
    """A scorer whose frozen tower may be that of the model in training. `shares_tower`: it is, so that the batch's
    `image_tokens` serve in place of its view."""

    shares_tower: bool


@runtime_checkable
class WeighingScorer(PairScorer, Protocol):
    """A scorer whose connections weigh something other than their P(match), under `positive_weight: probability`."""

    def weight(self, batch: Batch, image_K: Tensor, text_K: Tensor) -> Tensor:
        """(K,) in [0, 1], of pairs as `score` takes them."""
        ...


@runtime_checkable
class Retriever(Protocol):
    """What also embeds images and captions, so that near ones become candidates of mining: a judge whose score is a
    similarity. `fingerprint`: as a scorer's."""

    @property
    def fingerprint(self) -> str | None: ...

    def embed_images(self, batch: Batch) -> Tensor:
        """(B, Q, D) of unit length: an image counts by the best of its Q vectors."""
        ...

    def embed_texts(self, captions: Sequence[str]) -> Tensor:
        """(B, D) of unit length, of raw captions."""
        ...


def retriever_of(scorer: PairScorer) -> Retriever | None:
    """What embeds with the scorer's own network; None where it has no embeddings."""
    inner = getattr(scorer, "inner", scorer)  # of one that changes the scores of another
    return inner if isinstance(inner, Retriever) else None


def looks_at_images(scorer: PairScorer) -> bool:
    """Whether the scorer needs images; one that says `reads_captions_alone` does not."""
    return not getattr(scorer, "reads_captions_alone", False)


def gives_cosines(scorer: PairScorer) -> bool:
    """Whether its scores are plain cosines, no probabilities; one that says `gives_cosines` has no calibration."""
    return bool(getattr(scorer, "gives_cosines", False))


def view_of(scorer: PairScorer) -> View | None:
    """The scorer's own view of an image; None where it has none."""
    return scorer.view if isinstance(scorer, SeeingScorer) else None


def reads_tokens(scorer: PairScorer) -> bool:
    """Whether the tower tokens of the model in training serve the scorer in place of its view."""
    return isinstance(scorer, TowerScorer) and scorer.shares_tower


def same_view(one: View, other: View) -> bool:
    """Whether two views make the same tensor of an image: they are one, or their transforms read alike."""
    return one is other or repr(getattr(one, "transform", one)) == repr(getattr(other, "transform", other))
