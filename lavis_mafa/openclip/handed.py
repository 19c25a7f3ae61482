"""What open_clip's loop calls as its loss. Tested in tests/openclip/test_train.py."""

from __future__ import annotations

import argparse
from typing import Any

import torch

from lavis_mafa.openclip.feed import Feed
from lavis_mafa.openclip.judge import RowJudge
from lavis_mafa.openclip.masks import PairMasks
from lavis_mafa.openclip.shards import ShardFeed
from lavis_mafa.openclip.table import GuideTable


class HandedLoss:
    """Calls a managed loss with what open_clip's loop does not know: ids, verdicts, guide features, the epoch's α."""

    def __init__(
        self,
        loss: Any,
        feed: Feed | ShardFeed,
        table: GuideTable | None,
        options: argparse.Namespace,
        judge: RowJudge | None = None,
    ) -> None:
        self.loss, self.feed, self.table, self.options, self.judge = loss, feed, table, options, judge
        self._judged: PairMasks | None = None

    def __call__(self, image_features: torch.Tensor, text_features: torch.Tensor, **rest: Any) -> Any:
        n, features = len(image_features), (image_features, text_features)
        ids_n2 = self.feed.ids(n)
        if self.judge is not None and self.feed.fresh:  # accumulation calls again with the same pairs
            self._judged = self.judge(self.feed.rows(n), ids_n2, *features)
        self.feed.keep(*features)
        on = self.feed.epoch >= self.options.mafa_alpha_from_epoch
        self.loss.alpha = self.options.mafa_alpha if on else 0.0
        if self.options.mafa_known_positives == "on" or self.loss.connections is not None:
            rest["image_id"], rest["text_id"] = ids_n2.unbind(dim=1)
        if self._judged is not None:
            rest["pairs"] = self._judged
        if self.table is not None:
            rest |= self.table.rows(self.feed.rows(n), image_features.device)
        return self.loss(*features, **rest)
