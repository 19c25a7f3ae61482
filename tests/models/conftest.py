"""A tiny BLIP-2 beside LAVIS' own, with the same weights, tokenizer and batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from transformers import BertConfig

import lavis_mafa

VOCAB = Path(lavis_mafa.__file__).parent / "data" / "scenes" / "vocab.txt"
QFORMER = {
    "vocab_size": 64,
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
}
CAPTIONS = [
    "a red circle",
    "a big green star above a small blue square",
    "two objects",
    "a small pink ring on a dark background",
    "a yellow triangle",
    "a cyan cross left of a red square",
]


@pytest.fixture(scope="session", autouse=True)
def registered() -> None:
    lavis_mafa.register()


def tiny_blip2(**mafa: Any) -> Any:
    from lavis_mafa.core.settings import MafaSettings
    from lavis_mafa.models.blip2 import MafaBlip2

    torch.manual_seed(0)
    model = MafaBlip2(
        mafa=MafaSettings.from_dict(mafa),
        vocab=str(VOCAB),
        qformer=QFORMER,
        vit_model="small_vit",
        img_size=16,
        vit_precision="fp32",
        freeze_vit=False,
        num_query_token=4,
        embed_dim=16,
        max_txt_len=24,
    )
    return model


def lavis_blip2(ours: Any) -> Any:
    """LAVIS' own Blip2Qformer, built by its own constructor, with the weights of `ours`."""
    from lavis.models.blip2_models import blip2
    from lavis.models.blip2_models.blip2_qformer import Blip2Qformer
    from lavis.models.blip2_models.Qformer import BertLMHeadModel

    from lavis_mafa.models.small_vit import SmallViT
    from lavis_mafa.models.text import load_tokenizer

    with (
        mock.patch.object(blip2.BertTokenizer, "from_pretrained", lambda name: load_tokenizer(str(VOCAB))),
        mock.patch.object(blip2.BertConfig, "from_pretrained", lambda name: BertConfig(**QFORMER)),
        mock.patch.object(BertLMHeadModel, "from_pretrained", lambda name, config: BertLMHeadModel(config)),
        mock.patch.object(
            blip2.Blip2Base,
            "init_vision_encoder",
            lambda self, *a: (SmallViT(image_size=16), blip2.LayerNorm(128)),
        ),
    ):
        theirs = Blip2Qformer("any", 16, vit_precision="fp32", freeze_vit=False, num_query_token=4, embed_dim=16, max_txt_len=24)
    result = theirs.load_state_dict(ours.state_dict(), strict=True)
    assert not result.missing_keys
    return theirs


@pytest.fixture
def batch() -> dict[str, Any]:
    generator = torch.Generator().manual_seed(3)
    size = len(CAPTIONS)
    return {
        "image": torch.randn(size, 3, 16, 16, generator=generator),
        "text_input": list(CAPTIONS),
        "caption": list(CAPTIONS),
        "index": torch.arange(size),
        "image_id": torch.arange(size) + 100,
        "text_id": torch.arange(size) + 200,
        "text_row": torch.arange(size),
    }
