"""One step's pairs over all ranks: which are positives, which count as nothing. Tested in tests/openclip/test_loss.py.

B: rows of this rank, W: rows of all ranks, laid end to end. Index 0 of a first axis of 2 is image→text (anchors are
images, columns texts), index 1 text→image.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch import Tensor

from lavis_mafa.core.pairs import known_positives, own_positives
from lavis_mafa.openclip.masks import PairMasks

if TYPE_CHECKING:
    from lavis_mafa.openclip.judges import BiEncoderJudge


@dataclass(frozen=True)
class Step:
    """What is known of one step's pairs, gathered over the ranks; its questions answer with (B, W) or (2, B, W) masks.

    Image b and text w meet in row b of image→text; whether the pair is managed may hang on either of them as anchor.
    """

    B: int
    rank: int
    world: int
    device: torch.device
    ids: tuple[Tensor, Tensor] | None = None  # image_id (B,), text_id (B,)
    listed_P2: Tensor | None = None  # (image_id, text_id) of pairs that are known to match
    listed_weight_P: Tensor | None = None  # in [0, 1]; None: 1 each
    pairs: PairMasks | None = None
    judge: BiEncoderJudge | None = None
    judge_features: tuple[Tensor, Tensor] | None = None  # image (B, G), text (B, G)

    @property
    def first_col(self) -> int:
        """The column of this rank's first pair."""
        return self.rank * self.B

    def by_anchor(self) -> tuple[Tensor, Tensor]:
        """Weights of positives, float, and dropped pairs, both (2, B, W): [0, b] is anchored at image b, [1, b] at text
        b."""
        known_BW = self._known()
        positive_2BW, dropped_2BW = known_BW.float().repeat(2, 1, 1), torch.zeros_like(known_BW).repeat(2, 1, 1)
        if self.ids and self.listed_P2 is not None:
            (image_B, text_B), (image_W, text_W) = self.ids, self._gathered(self.ids)
            listed = self._listed(image_B, text_W), self._listed(image_W, text_B).T
            positive_2BW = positive_2BW.maximum(torch.stack(listed))
        if self.judge and self.judge_features:
            (image_B, text_B), (image_W, text_W) = self.judge_features, self._gathered(self.judge_features)
            own_B = (image_B * text_B).sum(dim=1)
            found = self.judge.exceeds(image_B, text_W, own_B), self.judge.exceeds(text_B, image_W, own_B)
            self._judged(torch.stack(found), positive_2BW, dropped_2BW)
        if self.pairs:
            own = slice(self.first_col, self.first_col + self.B)
            positive_2BW[:, :, own] = positive_2BW[:, :, own].maximum(self.pairs.connected_2BB.float())
            dropped_2BW[:, :, own] |= self.pairs.dropped_2BB
        return positive_2BW, dropped_2BW & (positive_2BW == 0)

    def by_pair(self) -> tuple[Tensor, Tensor]:
        """Weights of positives and dropped pairs, both (B, W), of images and texts: either may be the anchor."""
        known_BW = self._known()
        positive_BW, dropped_BW = known_BW.float(), torch.zeros_like(known_BW)
        if self.ids and self.listed_P2 is not None:
            positive_BW = positive_BW.maximum(self._listed(self.ids[0], self._gathered(self.ids)[1]))
        if self.judge and self.judge_features:
            (image_B, text_B), (image_W, text_W) = self.judge_features, self._gathered(self.judge_features)
            found_BW = self.judge.exceeds(image_B, text_W, (image_B * text_B).sum(dim=1))
            found_BW |= self.judge.exceeds(text_W, image_B, (image_W * text_W).sum(dim=1)).T
            self._judged(found_BW, positive_BW, dropped_BW)
        if self.pairs:
            own = slice(self.first_col, self.first_col + self.B)
            connected_2BB, dropped_2BB = self.pairs.connected_2BB.float(), self.pairs.dropped_2BB
            either_BB = connected_2BB[0].maximum(connected_2BB[1].T)
            positive_BW[:, own] = positive_BW[:, own].maximum(either_BB)
            dropped_BW[:, own] |= dropped_2BB[0] | dropped_2BB[1].T
        return positive_BW, dropped_BW & (positive_BW == 0)

    def _listed(self, image_id_B: Tensor, text_id_W: Tensor) -> Tensor:
        assert self.listed_P2 is not None
        return listed_pairs(image_id_B, text_id_W, self.listed_P2, self.listed_weight_P)

    def _judged(self, found: Tensor, positive: Tensor, dropped: Tensor) -> None:
        """What the judge found, entered in place among the positives or the dropped pairs."""
        assert self.judge is not None
        if self.judge.action == "connect":
            positive.masked_fill_(found, 1.0)
        else:
            dropped.logical_or_(found)

    def _known(self) -> Tensor:
        """(B, W): own pairs, and pairs of one image or one caption."""
        own_BW = own_positives(self.B, self.B * self.world, self.first_col, self.device)
        return own_BW if self.ids is None else own_BW | known_positives(*self.ids, *self._gathered(self.ids))

    def _gathered(self, parts: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        first, second = (gather_rows(part, self.world) for part in parts)
        return first, second


def listed_pairs(image_id_B: Tensor, text_id_W: Tensor, listed_P2: Tensor, weight_P: Tensor | None = None) -> Tensor:
    """Pairs of the batch that a list of verdicts names.

    Args:
        image_id_B: (B,) of the rank's own images.
        text_id_W: (W,) of all captions.
        listed_P2: (P, 2) long, image_id and text_id of the listed pairs.
        weight_P: (P,) their weights; None: 1 each.

    Returns:
        (B, W) float, the weight where the pair is listed, else 0.
    """
    image_P, text_P = listed_P2.unbind(dim=1)
    met_P = torch.isin(image_P, image_id_B) & torch.isin(text_P, text_id_W)  # so that P below is a handful
    image_BP = image_id_B[:, None] == image_P[met_P]
    text_PW = text_P[met_P][:, None] == text_id_W
    if weight_P is None:
        return (image_BP.float() @ text_PW.float()).clamp(max=1)  # a pair may be listed twice
    return (image_BP * weight_P[met_P].float()) @ text_PW.float()


def gather_rows(rows_B: Tensor, world: int) -> Tensor:
    """The rows (W, ...) of all ranks, in the order of ranks, without gradient."""
    if world == 1:
        return rows_B
    rows_B = rows_B.detach().contiguous()
    rows_W = [torch.empty_like(rows_B) for _ in range(world)]
    dist.all_gather(rows_W, rows_B)
    return torch.cat(rows_W)
