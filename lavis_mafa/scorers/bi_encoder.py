"""A bi-encoder of open_clip as judge: `run.con_d: {arch: open_clip, vit_model: open_clip:NAME/TAG_OR_FILE}`."""

from __future__ import annotations

import lavis_mafa.compat  # noqa: F401  before the first `lavis` import

from lavis.processors import load_processor
from omegaconf import OmegaConf

from lavis_mafa.models.openclip import ClipTokenizer
from lavis_mafa.models.towers.openclip import TowerName, create_openclip_model
from lavis_mafa.openclip import BiEncoderScorer
from lavis_mafa.scorers.networks import fingerprint
from lavis_mafa.scorers.registry import JUDGES, Judge, ScorerRequest


def build_bi_encoder(request: ScorerRequest) -> BiEncoderScorer:
    """Its model in its own preparation.

    Raises:
        ValueError: an unknown name or tag, no such file, or no weights: never a silently random network.
    """
    vit_model = str(request.section.get("vit_model"))
    name = TowerName.parse(vit_model)
    if not name.has_weights:
        raise ValueError(f"{request.where}.vit_model names no weights; give {vit_model}/TAG_OR_FILE")
    model = create_openclip_model(name, None).to(request.device)
    view = load_processor("open_clip_image_eval", OmegaConf.create({"vit_model": vit_model}))
    return BiEncoderScorer(model, ClipTokenizer(name.model), view, fingerprint(model))


# a pair is compared with the text's own, so it judges batches of own pairs; TowerName says what is wrong with vit_model
JUDGES.add("open_clip")(
    Judge(build_bi_encoder, ("vit_model",), training_only=True, costs="weights in 32 bits, passes without gradient")
)
