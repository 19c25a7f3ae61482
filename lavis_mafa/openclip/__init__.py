"""MAFA for open_clip: losses that manage false negatives, and guides that find them. Needs open_clip, not LAVIS.

open_clip knows our small models by name from now on: `mafa-scenes` and `mafa-small` (configs/).
"""

from pathlib import Path

import open_clip

from lavis_mafa.openclip.guide import BiEncoderGuide, GuideScorer, ItmGuide, OpenClipEncoder
from lavis_mafa.openclip.loss import MafaClipLoss, MafaSigLipLoss
from lavis_mafa.openclip.masks import PairMasks

__all__ = [
    "BiEncoderGuide",
    "GuideScorer",
    "ItmGuide",
    "MafaClipLoss",
    "MafaSigLipLoss",
    "OpenClipEncoder",
    "PairMasks",
]

open_clip.add_model_config(Path(__file__).resolve().parent / "configs")
