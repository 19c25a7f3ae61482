"""Embeddings of every family against the similarity that LAVIS itself gives to a pair."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from unittest import mock

import lavis_mafa.compat  # noqa: F401  before the first import of lavis

import pytest
import torch
import torch.nn.functional as F
from lavis.models.blip2_models.blip2_image_text_matching import Blip2ITM
from lavis.models.vit import VisionTransformerEncoder

from lavis_mafa.scorers.con_d import build_embedder
from lavis_mafa.scorers.embedders import embed_images, embed_texts
from tests.models.tiny import (
    CAPTIONS,
    MED,
    VOCAB,
    lavis_blip2,
    loud,
    tiny_albef,
    tiny_albef_features,
    tiny_blip2,
    tiny_blip_features,
    tiny_blip_itm,
    tiny_blip_retrieval,
    tiny_vit,
)


def itc_of_albef(model: Any, image: torch.Tensor, caption: str) -> torch.Tensor:
    """As in AlbefRetrieval.forward."""
    text = model.tokenizer(caption, return_tensors="pt")
    embeds = model.text_encoder.forward_text(text).last_hidden_state
    image_feat = F.normalize(model.vision_proj(model.visual_encoder.forward_features(image)[:, 0, :]), dim=-1)
    return image_feat @ F.normalize(model.text_proj(embeds[:, 0, :]), dim=-1).t()


def itc_of_features(model: Any, image: torch.Tensor, caption: str) -> torch.Tensor:
    """Of LAVIS' own extract_features, the first token of each."""
    sample = {"image": image, "text_input": [caption]}
    image_feat = model.extract_features(sample, mode="image").image_embeds_proj[:, 0]
    return image_feat @ model.extract_features(sample, mode="text").text_embeds_proj[:, 0].t()


def itc_of_blip_retrieval(model: Any, image: torch.Tensor, caption: str) -> torch.Tensor:
    """As in BlipRetrieval.forward."""
    text = model.tokenizer(caption, return_tensors="pt")
    embeds = model.text_encoder.forward_text(text).last_hidden_state
    image_feat = F.normalize(model.vision_proj(model.visual_encoder.forward_features(image)[:, 0, :]), dim=-1)
    return image_feat @ F.normalize(model.text_proj(embeds[:, 0, :]), dim=-1).t()


def itc_of_blip(model: Any, image: torch.Tensor, caption: str) -> torch.Tensor:
    return model({"image": image, "text_input": [caption]}, match_head="itc")


def itc_of_blip2(model: Any, image: torch.Tensor, caption: str) -> torch.Tensor:
    return Blip2ITM.forward(model, {"image": image, "text_input": [caption]}, match_head="itc")


@pytest.mark.parametrize(
    ("build", "itc", "size", "queries"),
    [
        (tiny_blip2, itc_of_blip2, 16, 4),
        (lambda: lavis_blip2(tiny_blip2()), itc_of_blip2, 16, 4),
        (tiny_albef, itc_of_albef, 32, 1),
        (tiny_blip_itm, itc_of_blip, 32, 1),
        (tiny_blip_retrieval, itc_of_blip_retrieval, 32, 1),
        (tiny_albef_features, itc_of_features, 32, 1),
        (tiny_blip_features, itc_of_features, 32, 1),
    ],
    ids=[
        "mafa_blip2",
        "blip2",
        "albef_retrieval",
        "blip_image_text_matching",
        "blip_retrieval",
        "albef_feature_extractor",
        "blip_feature_extractor",
    ],
)
def test_similarities_are_those_of_lavis(build: Any, itc: Any, size: int, queries: int) -> None:
    model = loud(build())
    images = torch.randn(3, 3, size, size, generator=torch.Generator().manual_seed(1))
    image_NQD, text_TD = embed_images(model, {"image": images}), embed_texts(model, CAPTIONS)
    assert image_NQD.shape[:2] == (3, queries)
    ours = torch.einsum("nqd,td->ntq", image_NQD, text_TD).amax(-1)
    with torch.no_grad():
        lavis = torch.cat(
            [torch.cat([itc(model, image[None], caption) for caption in CAPTIONS], 1) for image in images]
        )
    torch.testing.assert_close(ours, lavis.reshape(ours.shape), atol=1e-5, rtol=0)
    assert ours.std() > 0.01


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"arch": "albef_pretrain", "model_type": "base"}, "use mafa_albef, which loads"),
        ({"arch": "blip_pretrain", "model_type": "base"}, "use blip_feature_extractor, which loads"),
        ({"arch": "clip"}, "mafa_openclip, albef_feature_extractor"),
        (
            {"arch": "blip_feature_extractor", "model_type": "base", "load_finetuned": True, "finetuned": "x.pth"},
            "only loads model.pretrained",
        ),
    ],
)
def test_what_embeds_nothing_is_refused(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_embedder(config, torch.device("cpu"), "model")


def test_lavis_feature_extractor_from_its_checkpoint(tmp_path: Path) -> None:
    model = loud(tiny_blip_features())
    torch.save({"model": model.state_dict()}, tmp_path / "weights.pth")
    (tmp_path / "med.json").write_text(json.dumps(MED))
    config = {
        "arch": "blip_feature_extractor",
        "model_type": "base",
        "pretrained": str(tmp_path / "weights.pth"),
        "med_config_path": str(tmp_path / "med.json"),
        "vocab": str(VOCAB),
        "embed_dim": 16,
        "image_size": 32,
    }
    tiny = mock.patch.object(VisionTransformerEncoder, "from_config", lambda cfg, from_pretrained=False: tiny_vit())
    with tiny:
        network = build_embedder(config, torch.device("cpu"), "model")
    torch.testing.assert_close(embed_texts(network.model, CAPTIONS), embed_texts(model, CAPTIONS))
