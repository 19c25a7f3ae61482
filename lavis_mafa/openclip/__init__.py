"""MAFA for open_clip: losses that manage false negatives, and guides that find them. Needs open_clip, not LAVIS."""

from lavis_mafa.openclip.guide import BiEncoderGuide, ItmGuide, OpenClipEncoder
from lavis_mafa.openclip.loss import MafaClipLoss, MafaSigLipLoss
from lavis_mafa.openclip.masks import PairMasks

__all__ = ["BiEncoderGuide", "ItmGuide", "MafaClipLoss", "MafaSigLipLoss", "OpenClipEncoder", "PairMasks"]
