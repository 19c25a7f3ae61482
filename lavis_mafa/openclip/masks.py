"""Which pairs of a step are positives, which are left out. Tested in tests/openclip/test_loss.py, test_bi_encoder.py.

B: rows of this rank, W: rows of all ranks, laid end to end. Index 0 of a first axis of 2 is image→text (anchors are
images, columns texts), index 1 text→image.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lavis_mafa.core.batch import sent
from lavis_mafa.core.losses import connection_masks, matched_masks
from lavis_mafa.core.miner import MinedPairs
from lavis_mafa.core.pairs import SettledPairs
from lavis_mafa.core.settings import MafaSettings


@dataclass(frozen=True)
class PairMasks:
    """Pairs of a rank's own batch that are no negatives, each in the row of its anchor.

    connected_2BB: pairs that count as positives, bool, or their weights in [0, 1]. dropped_2BB: bool, pairs that count
    as nothing.
    """

    connected_2BB: Tensor
    dropped_2BB: Tensor

    def to(self, device: torch.device) -> PairMasks:
        return PairMasks(sent(self.connected_2BB, device), sent(self.dropped_2BB, device))

    @classmethod
    def of_settled(cls, settled: SettledPairs, B: int) -> PairMasks:
        """The connections among settled pairs; nothing is dropped."""
        connected_2BB = torch.stack(connection_masks(settled, B, B))
        return cls(connected_2BB, torch.zeros_like(connected_2BB, dtype=torch.bool))

    @classmethod
    def of_mined(cls, mined: MinedPairs, settings: MafaSettings, B: int) -> PairMasks:
        """What mining found: its connections or, where settings.action is drop, the same pairs as dropped ones."""
        masks = cls.of_settled(mined.itc_pairs, B)
        if settings.action != "drop" or mined.matches_C is None:
            return masks
        return cls(masks.connected_2BB, matched_masks(mined.candidates, mined.matches_C, B, B))
