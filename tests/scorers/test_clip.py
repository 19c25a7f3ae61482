"""Dual encoders of transformers against their own outputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    BertTokenizerFast,
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    SiglipConfig,
    SiglipImageProcessor,
    SiglipModel,
)

from lavis_mafa.core.scorer import Retriever, gives_cosines, view_of
from lavis_mafa.core.settings import MafaSettings
from lavis_mafa.scorers import without_lavis  # noqa: F401
from lavis_mafa.scorers.registry import ScorerRequest, build_scorer
from tests.tiny_text import WORDS, save_tokenizer

TEXTS = ["a dog runs", "the red car on the blue grass", "a cat"]
SIZES = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
TEXT = {
    **SIZES,
    "vocab_size": len(WORDS),
    "max_position_embeddings": 12,
    "eos_token_id": 3,
    "bos_token_id": 2,
    "pad_token_id": 0,
}
VISION = {**SIZES, "image_size": 16, "patch_size": 8}


def save(folder: Path, kind: str) -> Any:
    torch.manual_seed(0)
    size = {"height": 16, "width": 16}
    if kind == "siglip":
        model: Any = SiglipModel(SiglipConfig(text_config={**TEXT, "projection_size": 16}, vision_config=VISION))
        model.logit_bias.data.fill_(-1.0)
        SiglipImageProcessor(size=size).save_pretrained(folder)
    else:
        model = CLIPModel(CLIPConfig(text_config=TEXT, vision_config=VISION, projection_dim=8))
        CLIPImageProcessor(size=size, crop_size=size).save_pretrained(folder)
    model.eval().save_pretrained(folder)
    save_tokenizer(folder)
    return model


def build(folder: Path, **section: Any) -> Any:
    section = {"arch": "clip", "encoder": str(folder), **section}
    return build_scorer(ScorerRequest(section, "run.con_d", torch.device("cpu"), MafaSettings()))


@pytest.fixture
def images() -> list[Image.Image]:
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 256, (20, 24, 3), dtype=np.uint8)) for _ in range(2)]


@pytest.mark.parametrize("kind", ["clip", "siglip"])
@torch.no_grad()
def test_scores_are_the_networks_own(tmp_path: Path, kind: str, images: list[Image.Image]) -> None:
    model, judge = save(tmp_path, kind), build(tmp_path)
    assert view_of(judge) is not None and isinstance(judge, Retriever) and gives_cosines(judge) == (kind == "clip")
    batch: Any = {"judge_image": torch.stack([judge.view(image) for image in images]), "caption": TEXTS}
    image_K, text_K = torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 2, 1])
    tokenizer = BertTokenizerFast.from_pretrained(tmp_path)
    padding = {"padding": "max_length", "max_length": 12} if kind == "siglip" else {"padding": True}
    tokens = tokenizer(TEXTS, return_tensors="pt", **padding)
    mask = {} if kind == "siglip" else {"attention_mask": tokens.attention_mask}
    output = model(input_ids=tokens.input_ids, pixel_values=batch["judge_image"], **mask)
    cosine = output.image_embeds @ output.text_embeds.T
    expected = output.logits_per_image.sigmoid() if kind == "siglip" else cosine.clamp(0, 1)
    torch.testing.assert_close(judge.score(batch, image_K, text_K), expected[image_K, text_K], atol=1e-5, rtol=0)
    found = judge.embed_images(batch)[:, 0] @ judge.embed_texts(TEXTS).T
    torch.testing.assert_close(found, cosine, atol=1e-5, rtol=0)


def test_the_layout_of_sentence_transformers_is_read_and_others_are_refused(
    tmp_path: Path, encoder_folder: Path
) -> None:
    save(tmp_path / "st" / "0_CLIPModel", "clip")
    save(tmp_path / "plain", "clip")
    assert build(tmp_path / "st").fingerprint == build(tmp_path / "plain").fingerprint
    with pytest.raises(ValueError, match=r"is a BertModel, which has no image and text features"):
        build(encoder_folder)
    (tmp_path / "plain" / "preprocessor_config.json").unlink()
    with pytest.raises(ValueError, match=r"no preprocessor_config.json beside"):
        build(tmp_path / "plain")
    with pytest.raises(ValueError, match="arch clip needs encoder"):
        build(tmp_path, encoder=None)
