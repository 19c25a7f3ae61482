"""Judges tell false negatives from negatives for a dual encoder. Tested in tests/openclip/test_bi_encoder.py."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from lavis_mafa.common.precision import full_float32
from lavis_mafa.core.batch import Batch, rows_of, sent
from lavis_mafa.core.connections import ConnectionStore
from lavis_mafa.core.miner import ConnectionMiner
from lavis_mafa.core.pairs import known_positives, own_positives
from lavis_mafa.core.scorer import PairScorer, View
from lavis_mafa.core.settings import MafaSettings
from lavis_mafa.openclip.masks import PairMasks

Tokenizer = Callable[[list[str]], Tensor]  # of open_clip
ACTIONS = ("drop", "connect")


@dataclass(frozen=True)
class BiEncoderJudge:
    """Another pair of encoders as judge (GISTEmbed, arXiv 2402.16829, section 3).

    A pair whose similarity by them exceeds that of its anchor's own pair by `margin` (cosine; below 0 for a stricter
    judge) is no negative: it is dropped, or connected as a positive.

    Raises:
        ValueError: an unknown action or a margin outside [-2, 2].
    """

    margin: float = 0.0
    action: str = "drop"

    def __post_init__(self) -> None:
        if self.action not in ACTIONS:
            raise ValueError(f"action is {self.action!r}; it must be {' or '.join(ACTIONS)}")
        if not -2 <= self.margin <= 2:
            raise ValueError(f"margin is {self.margin!r}; it must be a difference of cosines, in [-2, 2]")

    def exceeds(self, anchor_RG: Tensor, partner_WG: Tensor, own_R: Tensor) -> Tensor:
        """(R, W) bool: the encoders find partner w closer to anchor r, by the margin, than r's own partner (own_R)."""
        with full_float32(anchor_RG.device.type):  # a half-precision cosine is off by a margin
            return anchor_RG @ partner_WG.T > own_R[:, None] + self.margin

    def masks(self, judge_image_features_BG: Tensor, judge_text_features_BG: Tensor) -> PairMasks:
        """The verdicts on a rank's own batch, from their features (B, G) of any length."""
        image_BG, text_BG = unit_length(judge_image_features_BG), unit_length(judge_text_features_BG)
        own_B = (image_BG * text_BG).sum(dim=1)
        found = self.exceeds(image_BG, text_BG, own_B), self.exceeds(text_BG, image_BG, own_B)
        found_2BB = torch.stack(found) & ~own_positives(len(own_B), len(own_B), device=own_B.device)
        none_2BB = torch.zeros_like(found_2BB)
        return PairMasks(found_2BB, none_2BB) if self.action == "connect" else PairMasks(none_2BB, found_2BB)


def unit_length(features_BG: Tensor) -> Tensor:
    """Features (B, G) in float32, each of length 1."""
    return F.normalize(features_BG.float(), dim=1)


class ClipModel(Protocol):
    """A model of open_clip."""

    logit_scale: Tensor

    def encode_image(self, image: Tensor, normalize: bool = False) -> Tensor: ...

    def encode_text(self, text: Tensor, normalize: bool = False) -> Tensor: ...

    def eval(self) -> object: ...


class OpenClipEncoder:
    """A frozen open_clip model whose features a BiEncoderJudge reads.

    model: what open_clip.create_model gives, with its pretrained weights. It sees the batch as it comes: images
    in its own preprocessing, texts from its own tokenizer.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        self.model = cast(ClipModel, model.eval().requires_grad_(False))  # open_clip has no types

    def __call__(self, images_B3HW: Tensor, texts_BT: Tensor) -> dict[str, Tensor]:
        """{"judge_image_features", "judge_text_features"}: (B, G) of unit length, keywords of the losses."""
        return {"judge_image_features": self.image(images_B3HW), "judge_text_features": self.text(texts_BT)}

    @torch.no_grad()
    def image(self, images_B3HW: Tensor) -> Tensor:
        """(B, G) of unit length."""
        return self.model.encode_image(images_B3HW, normalize=True)

    @torch.no_grad()
    def text(self, texts_BT: Tensor) -> Tensor:
        """(B, G) of unit length."""
        return self.model.encode_text(texts_BT, normalize=True)


class BiEncoderScorer:
    """A frozen open_clip model as PairScorer: P that it prefers this image for the text to the text's own image.

    P = σ((sim(image, text) - sim(own image, text)) / temperature), a softmax over the two: above 0.5 it finds
    the pair closer than the text's own (GISTEmbed's rule, read from the text); the bounds of MafaSettings say how sure.
    The own image of the text at position t of a batch is the image at t.

    model, view: of open_clip.create_model_and_transforms (the transform for validation); tokenizer: the model's.
    """

    def __init__(self, model: torch.nn.Module, tokenizer: Tokenizer, view: View, fingerprint: str) -> None:
        self.encode, self.tokenizer = OpenClipEncoder(model), tokenizer
        self.view, self.fingerprint = view, fingerprint

    @torch.no_grad()
    def score(self, batch: Batch, image_K: Tensor, text_K: Tensor) -> Tensor:
        """(K,) P of pairs (image_K[k], text_K[k]), positions in the collated batch."""
        images, image_of = torch.unique(torch.cat([image_K, text_K]), return_inverse=True)
        texts, text_of = torch.unique(text_K, return_inverse=True)
        captions = [batch["caption"][row] for row in texts.tolist()]
        on = partial(sent, device=self.encode.model.logit_scale.device)
        with torch.autocast(self.encode.model.logit_scale.device.type, enabled=False):
            image_KG, own_KG = self.encode.image(rows_of(batch["judge_image"], images))[on(image_of)].chunk(2)
            text_KG = self.encode.text(on(self.tokenizer(captions)))[on(text_of)]
        difference_K = ((image_KG - own_KG) * text_KG).sum(dim=1)
        return (difference_K * self.encode.model.logit_scale.exp()).float().sigmoid()


@dataclass(frozen=True)
class _FunctionScorer:
    score: Callable[[Batch, Tensor, Tensor], Tensor]
    fingerprint: str = "function"


class PairJudge:
    """MAFA's connection mining for a dual encoder: a frozen ITM network scores the hardest pairs of a batch.

    scorer: a PairScorer (any Con-D), or a function (batch, image_K, text_K) → P(match) (K,).
    settings: bounds and action; `store` keeps scores between epochs (a function's may not be stored).
    """

    def __init__(
        self,
        scorer: PairScorer | Callable[[Batch, Tensor, Tensor], Tensor],
        settings: MafaSettings | None = None,
        store: ConnectionStore | None = None,
    ) -> None:
        if not isinstance(scorer, PairScorer):
            if store is not None:
                raise ValueError("a store needs a PairScorer: a function has no fingerprint to store scores under")
            scorer = _FunctionScorer(scorer)
        self.settings = settings or MafaSettings()
        if self.settings.negatives != "hardest":
            raise ValueError(f"negatives is {self.settings.negatives!r}: a PairJudge looks at the hardest pairs alone")
        self.miner = ConnectionMiner(self.settings, scorer, store)

    @torch.no_grad()
    def __call__(self, batch: Batch, image_features_BD: Tensor, text_features_BD: Tensor) -> PairMasks:
        """The verdicts on a rank's batch: collated samples (with image_id and text_id, siblings are no candidates)."""
        B, device = len(image_features_BD), image_features_BD.device
        known_BB = own_positives(B, B)
        if "image_id" in batch and "text_id" in batch:
            known_BB = known_positives(batch["image_id"].cpu(), batch["text_id"].cpu())
        with full_float32(device.type):
            sim_BB = image_features_BD.float() @ text_features_BD.float().T
        mined = self.miner.mine(batch, sim_BB, sim_BB.T, known_BB)
        return PairMasks.of_mined(mined, self.settings, B).to(device)
