"""MAFA for open_clip: losses that manage false negatives, and judges that find them. Needs open_clip, not LAVIS.

open_clip knows our small models by name from now on: `mafa-scenes` and `mafa-small` (configs/).
"""

from pathlib import Path

import open_clip

from lavis_mafa.openclip.judges import BiEncoderJudge, BiEncoderScorer, OpenClipEncoder, PairJudge
from lavis_mafa.openclip.loss import MafaClipLoss, MafaSigLipLoss
from lavis_mafa.openclip.masks import PairMasks

__all__ = [
    "BiEncoderJudge",
    "BiEncoderScorer",
    "MafaClipLoss",
    "MafaSigLipLoss",
    "OpenClipEncoder",
    "PairJudge",
    "PairMasks",
]

open_clip.add_model_config(Path(__file__).resolve().parent / "configs")
