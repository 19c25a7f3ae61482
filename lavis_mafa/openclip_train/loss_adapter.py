"""What open_clip's loop calls as its loss. Tested in tests/openclip/test_train.py."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor

from lavis_mafa.openclip.loss import MafaClipLoss, MafaSigLipLoss
from lavis_mafa.openclip.masks import PairMasks
from lavis_mafa.openclip_train.answers import Answers
from lavis_mafa.openclip_train.csv_feed import Feed
from lavis_mafa.openclip_train.shard_feed import ShardFeed


class Known(Protocol):
    """What the loss asks of the run: its data, once they are there, and its judge."""

    options: argparse.Namespace
    feed: Feed | ShardFeed | None
    answers: Answers | None


class LossAdapter:
    """Calls a managed loss with what open_clip's loop does not know: ids, a judge's answers, the epoch's α."""

    def __init__(self, loss: MafaClipLoss | MafaSigLipLoss, run: Known) -> None:
        self.loss, self.run, self.options = loss, run, run.options
        self._given: Mapping[str, Tensor | PairMasks] = {}

    @property
    def feed(self) -> Feed | ShardFeed:
        assert self.run.feed is not None, "open_clip reads its data before it trains"
        return self.run.feed

    @torch.compiler.disable  # type: ignore[untyped-decorator]  # ids and judges are no tensors of a graph
    def __call__(
        self, image_features: Tensor, text_features: Tensor, **rest: Tensor | bool
    ) -> Tensor | dict[str, Tensor]:
        n, features = len(image_features), (image_features, text_features)
        if self.run.answers is not None and self.feed.fresh:  # accumulation calls again with the same pairs
            self._given = self.run.answers(self.feed.samples(n, image_features.device), *features)
        self.feed.keep(*features)
        on = self.feed.epoch >= self.options.mafa_alpha_from_epoch
        self.loss.alpha = self.options.mafa_alpha if on else 0.0
        if self.options.mafa_known_positives == "on" or self.loss.connections is not None:
            rest["image_id"], rest["text_id"] = self.feed.ids(n).unbind(dim=1)
        return self.loss(*features, **rest, **self._given)
