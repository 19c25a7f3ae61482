"""Judges that find false negatives in open_clip's training. Tested in tests/openclip/test_judge.py.

A judge is called with the samples of a batch, as a feed gives them, and its features; it answers with keywords of the
loss. Whatever it looks at, images are as their file has them: its own view, unaugmented.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import open_clip
import torch
from torch import Tensor

from lavis_mafa.core.scorer import PairScorer, TowerScorer, View, view_of
from lavis_mafa.core.settings import MafaSettings
from lavis_mafa.openclip.judges import OpenClipEncoder, PairJudge
from lavis_mafa.openclip.masks import PairMasks
from lavis_mafa.openclip_train.images import RowBatch
from lavis_mafa.openclip_train.tower_tokens import TowerTokens

BATCH = 64  # of an encoder, which may see an accumulated batch at once


class Answers(Protocol):
    """A judge. `view`: how it sees an image; None where it needs no look."""

    @property
    def view(self) -> View | None: ...

    def __call__(
        self, samples: RowBatch, image_features_nD: Tensor, text_features_nD: Tensor
    ) -> Mapping[str, Tensor | PairMasks]: ...


class ScorerAnswers:
    """Asks a judge about the hardest pairs of a batch.

    scorer: as lavis_mafa.scorers.registry builds it; it is shown each image by its own view.
    tokens: what its frozen tower says of every row's image, so that images need not be looked at again.
    """

    def __init__(self, scorer: PairScorer, settings: MafaSettings, tokens: TowerTokens | None = None) -> None:
        self.judge, self.tokens = PairJudge(scorer, settings), tokens
        self.view = view_of(scorer) if tokens is None else None
        if tokens is not None:
            assert isinstance(scorer, TowerScorer), "tower_tokens refuses others"
            scorer.shares_tower = True  # it reads image_tokens

    def __call__(self, samples: RowBatch, image_features_nD: Tensor, text_features_nD: Tensor) -> dict[str, PairMasks]:
        """{"pairs": PairMasks}; samples: judge_image, or row where there are tokens, caption, image_id, text_id."""
        if self.tokens is not None:
            samples = {**samples, "image_tokens": self.tokens.of(samples["row"], image_features_nD.device)}
        return {"pairs": self.judge(samples, image_features_nD.detach(), text_features_nD.detach())}


class EncoderAnswers:
    """Features of a frozen open_clip model for batches as they come, in its own preprocessing and tokens."""

    def __init__(self, model: str, pretrained: str, device: torch.device) -> None:
        net, _, self.view = open_clip.create_model_and_transforms(model, pretrained, device=device)
        self.encode, self.tokenizer = OpenClipEncoder(net), open_clip.get_tokenizer(model)

    def __call__(self, samples: RowBatch, image_features_nD: Tensor, text_features_nD: Tensor) -> dict[str, Tensor]:
        """{"judge_image_features", "judge_text_features"}: (n, G) of unit length; samples: judge_image, caption."""
        token_nT = self.tokenizer(samples["caption"]).to(image_features_nD.device)
        with torch.autocast(image_features_nD.device.type, enabled=False):
            parts = zip(samples["judge_image"].split(BATCH), token_nT.split(BATCH), strict=True)
            encoded = [self.encode(images, tokens) for images, tokens in parts]
        return {name: torch.cat([part[name] for part in encoded]) for name in encoded[0]}
