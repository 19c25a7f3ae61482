"""What open_clip's loop calls as its loss. Tested in tests/openclip/test_train.py."""

from __future__ import annotations

import argparse
from collections.abc import Mapping

from torch import Tensor

from lavis_mafa.openclip.loss import MafaClipLoss, MafaSigLipLoss
from lavis_mafa.openclip.masks import PairMasks
from lavis_mafa.openclip_train.answers import Answers
from lavis_mafa.openclip_train.csv_feed import Feed
from lavis_mafa.openclip_train.shard_feed import ShardFeed


class LossAdapter:
    """Calls a managed loss with what open_clip's loop does not know: ids, a judge's answers, the epoch's α."""

    def __init__(
        self,
        loss: MafaClipLoss | MafaSigLipLoss,
        feed: Feed | ShardFeed,
        options: argparse.Namespace,
        answers: Answers | None,
    ) -> None:
        self.loss, self.feed, self.options, self.answers = loss, feed, options, answers
        self._given: Mapping[str, Tensor | PairMasks] = {}

    def __call__(
        self, image_features: Tensor, text_features: Tensor, **rest: Tensor | bool
    ) -> Tensor | dict[str, Tensor]:
        n, features = len(image_features), (image_features, text_features)
        if self.answers is not None and self.feed.fresh:  # accumulation calls again with the same pairs
            self._given = self.answers(self.feed.samples(n, image_features.device), *features)
        self.feed.keep(*features)
        on = self.feed.epoch >= self.options.mafa_alpha_from_epoch
        self.loss.alpha = self.options.mafa_alpha if on else 0.0
        if self.options.mafa_known_positives == "on" or self.loss.connections is not None:
            rest["image_id"], rest["text_id"] = self.feed.ids(n).unbind(dim=1)
        return self.loss(*features, **rest, **self._given)
