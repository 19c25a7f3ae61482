"""Who tells false negatives from negatives in open_clip's training. Tested in tests/openclip/test_judge.py.

A judge is called with the samples of a batch, as a feed gives them, and its features; it answers with keywords of the
loss. Whatever it looks at, images are as their file has them: its own view, unaugmented.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import open_clip
import torch
from PIL import Image
from torch import Tensor

from lavis_mafa.core.settings import MafaSettings
from lavis_mafa.openclip.guide import ItmGuide, OpenClipEncoder

BATCH = 64  # of a guide, which may see an accumulated batch at once

Judge = Callable[[Mapping[str, Any], Tensor, Tensor], dict[str, Any]]


class RowViews:
    """Images of rows, opened and prepared when they are asked for: of a batch, ECM needs a part."""

    def __init__(self, paths: Sequence[str], prepare: Callable[[Any], Tensor], device: torch.device) -> None:
        self.paths, self.prepare, self.device = paths, prepare, device

    def __getitem__(self, position_K: Tensor) -> Tensor:
        """(K, 3, h, w) of the rows at these positions."""
        return torch.stack([self._view(self.paths[position]) for position in position_K.tolist()]).to(self.device)

    def _view(self, path: str) -> Tensor:
        with Image.open(path) as image:
            return self.prepare(image.convert("RGB"))


class ItmJudge:
    """Asks a matching network about the hardest pairs of a batch.

    scorer: a PairScorer with `vis_processor`, its own view of a PIL image, as lavis_mafa.con_d's have one.
    """

    def __init__(self, scorer: Any, settings: MafaSettings) -> None:
        self.guide, self.vis_processor = ItmGuide(scorer, settings), scorer.vis_processor

    def __call__(
        self, samples: Mapping[str, Any], image_features_nD: Tensor, text_features_nD: Tensor
    ) -> dict[str, Any]:
        """{"pairs": PairMasks}; samples: con_d_image, caption, image_id, text_id."""
        return {"pairs": self.guide(samples, image_features_nD.detach(), text_features_nD.detach())}


class EncoderJudge:
    """Features of a frozen open_clip model for batches as they come, in its own preprocessing and tokens."""

    def __init__(self, model: str, pretrained: str, device: Any) -> None:
        net, _, self.vis_processor = open_clip.create_model_and_transforms(model, pretrained, device=device)
        self.encode, self.tokenizer = OpenClipEncoder(net), open_clip.get_tokenizer(model)

    def __call__(
        self, samples: Mapping[str, Any], image_features_nD: Tensor, text_features_nD: Tensor
    ) -> dict[str, Any]:
        """{"guide_image_features", "guide_text_features"}: (n, G) of unit length; samples: con_d_image, caption."""
        token_nT = self.tokenizer(samples["caption"]).to(image_features_nD.device)
        with torch.autocast(image_features_nD.device.type, enabled=False):
            parts = zip(samples["con_d_image"].split(BATCH), token_nT.split(BATCH), strict=True)
            encoded = [self.encode(images, tokens) for images, tokens in parts]
        return {name: torch.cat([part[name] for part in encoded]) for name in encoded[0]}
