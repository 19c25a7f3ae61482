"""A tiny ALBEF beside LAVIS' own, with the same weights and tokenizer."""

from __future__ import annotations

from typing import Any
from unittest import mock

import torch

from tests.models.tiny import VOCAB

ALBEF_BERT = {
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "fusion_layer": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
}


def tiny_vit(image_size: int = 16) -> Any:
    """LAVIS' own ViT, small: (image_size / 8)² patches, width 32."""
    from lavis.models.vit import VisionTransformerEncoder

    tower = VisionTransformerEncoder(img_size=image_size, patch_size=8, embed_dim=32, depth=2, num_heads=2)
    tower.vision_width = 32
    return tower


def tiny_mafa_albef(image_size: int = 16, **mafa: Any) -> Any:
    from lavis_mafa.core.settings import MafaSettings
    from lavis_mafa.models.albef.parts import build_text_encoder
    from lavis_mafa.models.albef.pretrain import ALBEF_SETTINGS, MafaAlbef
    from lavis_mafa.models.text import load_tokenizer

    torch.manual_seed(0)
    tokenizer = load_tokenizer(str(VOCAB))
    return MafaAlbef(
        tiny_vit(image_size),
        build_text_encoder({"text_encoder": ALBEF_BERT}, 32, len(tokenizer), None),
        tokenizer,
        mafa=MafaSettings.from_dict({**ALBEF_SETTINGS, **mafa}),
        embed_dim=16,
        max_txt_len=24,
    )


def lavis_albef(ours: Any) -> Any:
    """LAVIS' own AlbefPretrain, built by its own constructor, with the weights of `ours`, copied to its momentum."""
    from lavis.models.albef_models.albef_pretrain import AlbefPretrain

    from lavis_mafa.models.albef.parts import build_text_encoder

    tower = tiny_vit(8 * int((ours.visual_encoder.pos_embed.shape[1] - 1) ** 0.5))
    text_encoder = build_text_encoder({"text_encoder": ALBEF_BERT}, 32, len(ours.tokenizer), None)
    with mock.patch.object(AlbefPretrain, "init_tokenizer", lambda self: ours.tokenizer):
        theirs = AlbefPretrain(
            tower,
            text_encoder,
            12,
            embed_dim=16,
            mlm_mask_prob=ours.mlm_probability,
            alpha=0.0,
            max_txt_len=ours.max_txt_len,
        )
    assert not theirs.load_state_dict(ours.state_dict(), strict=False).unexpected_keys
    theirs.copy_params()
    return theirs
