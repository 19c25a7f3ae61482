"""Tiny random networks: ours, and LAVIS' own built by their own constructors, with nothing fetched."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

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
MED = QFORMER | {
    "vocab_size": 96,  # LAVIS does not resize it
    "architectures": ["BertModel"],
    "model_type": "bert",
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
    "pad_token_id": 0,
    "add_type_embeddings": False,
    "encoder_width": 32,
    "add_cross_attention": True,
}
MED_ALBEF = MED | {"fusion_layer": 2}
CAPTIONS = [
    "a red circle",
    "a big green star above a small blue square",
    "two objects",
    "a small pink ring on a dark background",
    "a yellow triangle",
    "a cyan cross left of a red square",
]


def loud(model: Any, seed: int = 0) -> Any:
    """Weights of unit gain: as initialised, a tiny network says almost the same of everything."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1 and not name.endswith("position_embeddings.weight"):
                gain = 1.0 if "embed" in name or "token" in name else parameter[0].numel() ** -0.5
                parameter.normal_(std=gain, generator=generator)
    return model.eval()


def tiny_blip2(vit: dict[str, Any] | None = None, **mafa: Any) -> Any:
    """Our model; `vit` goes to its constructor (vit_model, vit_weights, freeze_vit), `mafa` to its settings."""
    from lavis_mafa.core.settings import MafaSettings
    from lavis_mafa.models.blip2.stage1 import MafaBlip2

    torch.manual_seed(0)
    sizes: dict[str, Any] = {"vit_model": "small_vit", "img_size": 16, "freeze_vit": False, "vit_precision": "fp32"}
    return MafaBlip2(
        mafa=MafaSettings.from_dict(mafa),
        vocab=str(VOCAB),
        qformer=QFORMER,
        num_query_token=4,
        embed_dim=16,
        max_txt_len=24,
        **(sizes | (vit or {})),
    )


@contextmanager
def hub_stand_ins() -> Iterator[None]:
    """LAVIS' BLIP-2 constructors with tiny stand-ins for what they fetch."""
    from lavis.models.blip2_models import blip2
    from lavis.models.blip2_models.Qformer import BertLMHeadModel

    from lavis_mafa.models.text import load_tokenizer
    from lavis_mafa.models.towers.small_vit import SmallViT

    def tower(self: Any, *args: Any) -> Any:
        return SmallViT(image_size=16), blip2.LayerNorm(128)

    with (
        mock.patch.object(blip2.BertTokenizer, "from_pretrained", lambda name: load_tokenizer(str(VOCAB))),
        mock.patch.object(blip2.BertConfig, "from_pretrained", lambda name: BertConfig(**QFORMER)),
        mock.patch.object(BertLMHeadModel, "from_pretrained", lambda name, config: BertLMHeadModel(config)),
        mock.patch.object(blip2.Blip2Base, "init_vision_encoder", tower),
    ):
        yield


def lavis_blip2(ours: Any = None, arch: str = "blip2", freeze_vit: bool = False) -> Any:
    """LAVIS' own `arch`, built by its own constructor, with the weights of `ours`."""
    from lavis.common.registry import registry

    sizes: dict[str, Any] = {"vit_precision": "fp32", "num_query_token": 4, "embed_dim": 16, "max_txt_len": 24}
    with hub_stand_ins():
        theirs = registry.get_model_class(arch)("any", 16, freeze_vit=freeze_vit, **sizes)
    if ours is not None:
        theirs.load_state_dict(ours.state_dict(), strict=True)
    return theirs


def tiny_vit(image_size: int = 32) -> Any:
    from lavis.models.vit import VisionTransformerEncoder

    tower = VisionTransformerEncoder(img_size=image_size, patch_size=16, embed_dim=32, depth=2, num_heads=2)
    tower.vision_width = 32
    return tower


def tiny_albef() -> Any:
    """LAVIS' `albef_retrieval`, 32 pixels."""
    from lavis.models.albef_models.albef_retrieval import AlbefRetrieval
    from lavis.models.med import XBertEncoder

    from lavis_mafa.models.text import load_tokenizer

    text = XBertEncoder(BertConfig(**MED_ALBEF), add_pooling_layer=False)
    with mock.patch.object(AlbefRetrieval, "init_tokenizer", lambda self: load_tokenizer(str(VOCAB))):
        return AlbefRetrieval(tiny_vit(), text, queue_size=8, embed_dim=16)


def tiny_blip_itm() -> Any:
    """LAVIS' `blip_image_text_matching`, 32 pixels."""
    from lavis.models.blip_models.blip_image_text_matching import BlipITM

    return _tiny_blip(BlipITM, embed_dim=16)


def tiny_blip_retrieval() -> Any:
    """LAVIS' `blip_retrieval`, 32 pixels."""
    from lavis.models.blip_models.blip_retrieval import BlipRetrieval

    return _tiny_blip(BlipRetrieval, embed_dim=16, queue_size=8)


def tiny_blip_features() -> Any:
    """LAVIS' `blip_feature_extractor`, 32 pixels."""
    from lavis.models.blip_models.blip_feature_extractor import BlipFeatureExtractor

    return _tiny_blip(BlipFeatureExtractor, embed_dim=16)


def _tiny_blip(model_cls: type, **sizes: Any) -> Any:
    from lavis.models.med import XBertEncoder
    from transformers import BertTokenizer

    from lavis_mafa.models.text import load_tokenizer

    text = XBertEncoder(BertConfig(**MED), add_pooling_layer=False)
    with mock.patch.object(BertTokenizer, "from_pretrained", lambda name: load_tokenizer(str(VOCAB))):
        return model_cls(tiny_vit(), text, **sizes)


def tiny_albef_features() -> Any:
    """LAVIS' `albef_feature_extractor`, 32 pixels."""
    from lavis.models.albef_models.albef_feature_extractor import AlbefFeatureExtractor
    from lavis.models.med import BertForMaskedLM

    from lavis_mafa.models.text import load_tokenizer

    with mock.patch.object(AlbefFeatureExtractor, "init_tokenizer", lambda self: load_tokenizer(str(VOCAB))):
        return AlbefFeatureExtractor(tiny_vit(), BertForMaskedLM(BertConfig(**MED_ALBEF)), embed_dim=16)
