"""A matching network of LAVIS as judge in open_clip's training. Tested in tests/openclip/test_judge.py."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from lavis_mafa.core.settings import MafaSettings
from lavis_mafa.openclip.guide import ItmGuide
from lavis_mafa.openclip.masks import PairMasks


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


class RowJudge:
    """Asks Con-D about the hardest pairs of a batch, given as rows of CSV data; it sees every image unaugmented.

    scorer: a PairScorer with `vis_processor`, its own view of a PIL image, as lavis_mafa.con_d's have one.
    """

    def __init__(self, scorer: Any, settings: MafaSettings, paths: Sequence[str], captions: Sequence[str]) -> None:
        self.guide, self.prepare = ItmGuide(scorer, settings), scorer.vis_processor
        self.paths, self.captions = paths, captions

    def __call__(self, row_n: Tensor, ids_n2: Tensor, image_features_nD: Tensor, text_features_nD: Tensor) -> PairMasks:
        rows = row_n.tolist()
        views = RowViews([str(self.paths[row]) for row in rows], self.prepare, image_features_nD.device)
        image_id, text_id = ids_n2.unbind(dim=1)
        batch = {
            "con_d_image": views,
            "caption": [str(self.captions[row]) for row in rows],
            "image_id": image_id,
            "text_id": text_id,
        }
        return self.guide(batch, image_features_nD.detach(), text_features_nD.detach())
