"""Embeddings of every family against the similarity that LAVIS itself gives to a pair."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from lavis.models.blip2_models.blip2_image_text_matching import Blip2ITM

from lavis_mafa.embedders import embed_images, embed_texts
from tests.models.tiny import CAPTIONS, lavis_blip2, loud, tiny_albef, tiny_blip2, tiny_blip_itm


def itc_of_albef(model: Any, image: torch.Tensor, caption: str) -> torch.Tensor:
    """As in AlbefRetrieval.forward."""
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
    ],
    ids=["mafa_blip2", "blip2", "albef_retrieval", "blip_image_text_matching"],
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
