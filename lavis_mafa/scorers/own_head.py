"""The student's own matching head in Con-D's place. Tested in tests/models/test_own_head.py."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from lavis_mafa.core.batch import Batch, rows_of, sent
from lavis_mafa.models.protocols import Matcher
from lavis_mafa.scorers.registry import JUDGES, Judge, ScorerRequest

VIEWS: tuple[Literal["image"], Literal["image_tokens"]] = ("image", "image_tokens")


class OwnHead:
    """PairScorer over the model that is trained, in eval mode and without gradient, on its own view of the batch.

    Its scores age with every step, so that it has no fingerprint and no store keeps them.
    """

    fingerprint = None

    def __init__(self, model: Matcher) -> None:
        self.model = model

    @torch.no_grad()
    def score(self, batch: Batch, image_K: Tensor, text_K: Tensor) -> Tensor:
        """P(match) (K,) of pairs (image_K[k], text_K[k]), positions in the collated batch."""
        images, image_of = torch.unique(image_K, return_inverse=True)
        texts, text_of = torch.unique(text_K, return_inverse=True)
        model, training = self.model, self.model.training
        model.eval()
        try:
            views: Batch = {}
            for name in VIEWS:
                if name in batch:
                    views[name] = rows_of(batch[name], images)
            with _without_cache(model.device.type):
                seen = model.vision_tokens(views)
                tokens = model.tokenize([batch["text_input"][row] for row in texts.tolist()])
                state = model.pair_state(seen.float(), tokens)  # a frozen tower may be one in half precision
                rows = sent(image_of, model.device), sent(text_of, model.device)
                p_K: Tensor = model.match_logits(state, *rows).softmax(dim=1)[:, 1]
        finally:
            model.train(training)
        return p_K


def _without_cache(device: str) -> torch.autocast:
    """The autocast that is on, less its cache: torch below 2.11 keeps a weight's cast of a pass without gradient, and
    gives it to the training pass, which then has no gradient for that weight."""
    on, dtype = torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)
    return torch.autocast(device, dtype, on, cache_enabled=False)


def _build(request: ScorerRequest) -> OwnHead:
    assert request.student is not None, "it serves in training alone"
    if not request.student.has_itm:
        raise ValueError(f"{request.where}.arch is self, but the model has no matching head: name a matching network")
    return OwnHead(request.student)


JUDGES.add("self")(Judge(_build, training_only=True, is_stored=False))
