"""Captions as judge: a sentence encoder compares a candidate caption with the image's own captions.

    run.con_d: {arch: captions, encoder: sentence-transformers/all-MiniLM-L6-v2}

It looks at no image and costs a matrix product. Its score is the largest cosine to an own caption, 0 where that is
negative: no probability until `python -m lavis_mafa.calibrate` makes it one. Tested in tests/scorers/test_captions.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor

from lavis_mafa.common.hashing import digest
from lavis_mafa.core.batch import Batch
from lavis_mafa.data.identity import text_id
from lavis_mafa.data.own_captions import OwnCaptions
from lavis_mafa.data.records import TextProcessor
from lavis_mafa.encoders.frozen import named_folder
from lavis_mafa.encoders.text_encoder import TextEncoder, load_text_encoder
from lavis_mafa.scorers.registry import JUDGES, Judge, ScorerRequest

RETRIEVED_BY = 16  # own captions of an image that candidates are looked for by; it is judged by all of them


@dataclass(frozen=True)
class CaptionScorer:
    """PairScorer and Retriever over the captions that are known of each image.

    An annotated pair is compared with the image's other captions, and counts as sure where there are none.
    own: None where data stream by: an image's caption is then the one at its position in the batch.
    """

    encode: TextEncoder
    own: OwnCaptions | None
    reads_captions_alone: ClassVar[bool] = True
    gives_cosines: ClassVar[bool] = True

    @cached_property
    def fingerprint(self) -> str:
        known = () if self.own is None else (self.own.image_id_N, self.own.offsets, *self.own.captions.to_pylist())
        return f"captions:{digest(self.encode.fingerprint, *known)}"

    @property
    def weights_fingerprint(self) -> str:
        """What a calibration belongs to: the encoder, whatever captions are known."""
        return f"captions:{self.encode.fingerprint}"

    @torch.no_grad()
    def score(self, batch: Batch, image_K: Tensor, text_K: Tensor) -> Tensor:
        """(K,) largest cosine of text_K[k] to a caption of image image_K[k], in [0, 1]."""
        images, image_of_K = torch.unique(image_K, return_inverse=True)
        texts, text_of_K = torch.unique(text_K, return_inverse=True)
        captions = [batch["caption"][row] for row in texts.tolist()]
        cosine_IT = self._nearest(own_of(batch, images, self.own), captions).to(image_K.device)
        return cosine_IT[image_of_K, text_of_K].clamp(0, 1)

    def _nearest(self, own: list[list[str]], captions: list[str]) -> Tensor:
        """(I, T) the largest cosine of each caption to an image's, itself left out where there are others."""
        flat = [caption for each in own for caption in each]
        image_O = torch.tensor([image for image, each in enumerate(own) for _ in each], dtype=torch.int64)
        cosine_OT = (self.encode(flat) @ self.encode(captions).T).cpu()
        read = self.own.text_processor if self.own else str
        other_OT = cosine_OT.masked_fill(same_texts(flat, captions, read), -torch.inf)
        rows_OT = image_O[:, None].expand(-1, len(captions))
        empty_IT = torch.full((len(own), len(captions)), -torch.inf)
        nearest_IT, other_IT = (empty_IT.scatter_reduce(0, rows_OT, each, "amax") for each in (cosine_OT, other_OT))
        return torch.where(other_IT.isfinite(), other_IT, nearest_IT)

    def embed_images(self, batch: Batch) -> Tensor:
        """(B, Q, D): an image by its own captions, the first one repeated where it has fewer than Q."""
        assert self.own is not None, "who looks for candidates knows the data"
        own = [self.own[image] for image in batch["image_id"].tolist()]
        size = min(self.own.most, RETRIEVED_BY)
        padded = [caption for each in own for caption in [*each, *[each[0]] * size][:size]]
        return self.encode(padded).reshape(len(own), size, -1)

    def embed_texts(self, captions: Sequence[str]) -> Tensor:
        return self.encode(captions)

    def report(self) -> dict[str, int]:
        """How many different captions it read, and how many of them are longer than the encoder reads."""
        return {"captions_read": self.encode.read, "captions_cut": self.encode.cut}


def own_of(batch: Batch, images: Tensor, own: OwnCaptions | None) -> list[list[str]]:
    """The captions known of each image of a batch; where data stream by, the one at its position."""
    if own is None:
        return [[batch["caption"][at]] for at in images.tolist()]
    return [own[image] for image in batch["image_id"][images.to(batch["image_id"].device)].tolist()]


def same_texts(one: Sequence[str], other: Sequence[str], read: TextProcessor = str) -> Tensor:
    """(O, T) bool: two captions are the same text, by text_id of what a model reads of them."""
    id_O, id_T = (torch.tensor([text_id(read(text)) for text in texts], dtype=torch.int64) for texts in (one, other))
    return id_O[:, None] == id_T


def build_captions(request: ScorerRequest) -> CaptionScorer:
    """Build the judge `captions`.

    Raises:
        ValueError: no encoder named, or what load_text_encoder refuses.
    """
    if not request.section.get("encoder"):
        raise ValueError(
            f"{request.where}: arch captions needs encoder, a sentence encoder's folder or hub name "
            "(e.g. sentence-transformers/all-MiniLM-L6-v2; for several languages intfloat/multilingual-e5-small)"
        )
    encoder = str(request.section["encoder"])
    encode = load_text_encoder(encoder, f"{request.where}.encoder", request.device, request.section)
    return CaptionScorer(encode, request.own_captions)


JUDGES.add("captions")(
    Judge(
        build_captions,
        ("encoder", "pooling", "max_length", "prompt"),
        files=lambda section: named_folder(section, "encoder"),
        costs="a sentence encoder; every caption is encoded once",
    )
)
