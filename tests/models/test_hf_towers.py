"""Vision towers of transformers before the Q-Former, tiny and random."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    BertConfig,
    BertModel,
    CLIPModel,
    Dinov2Config,
    Dinov2Model,
    DINOv3ViTConfig,
    DINOv3ViTModel,
    Siglip2VisionConfig,
    Siglip2VisionModel,
    SiglipModel,
    SiglipVisionConfig,
    SiglipVisionModel,
    ViTConfig,
    ViTModel,
)

from lavis_mafa.models.towers.build import build_tower
from tests.models.tiny import QFORMER, tiny_blip2

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
IMAGE = SIZES | {"image_size": 32, "patch_size": 8}
TEXT = SIZES | {"vocab_size": 64, "max_position_embeddings": 16}
NETWORKS: dict[str, tuple[Any, Any, int]] = {  # and the number of tokens that are no patches
    "dinov2": (Dinov2Model, Dinov2Config(**IMAGE), 1),
    "dinov3": (DINOv3ViTModel, DINOv3ViTConfig(**IMAGE, num_register_tokens=4), 5),
    "siglip": (SiglipVisionModel, SiglipVisionConfig(**IMAGE), 0),
    "siglip, both encoders": (SiglipModel, SiglipModel.config_class(vision_config=IMAGE, text_config=TEXT), 0),
    "clip, both encoders": (CLIPModel, CLIPModel.config_class(vision_config=IMAGE, text_config=TEXT), 1),
    "vit": (ViTModel, ViTConfig(**IMAGE), 1),
}


@pytest.fixture(params=NETWORKS)
def saved(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Any, Path, int]:
    """A network, its folder, and how many of its tokens are no patches."""
    network, config, more = NETWORKS[request.param]
    torch.manual_seed(0)
    model = network(config).eval()
    model.save_pretrained(tmp_path)
    return model, tmp_path, more


def test_the_tokens_are_those_of_its_last_layer(saved: tuple[Any, Path, int]) -> None:
    model, folder, more = saved
    tower, image = build_tower(f"hf:{folder}", 32, None).eval(), torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        tokens = tower(image)
        expected = getattr(model, "vision_model", model)(pixel_values=image).last_hidden_state
    assert tokens.shape == (2, more + 16, tower.num_features)
    torch.testing.assert_close(tokens, expected)


def test_another_image_size_interpolates_the_positions(saved: tuple[Any, Path, int]) -> None:
    _, folder, more = saved
    assert build_tower(f"hf:{folder}", 48, None)(torch.randn(1, 3, 48, 48)).shape[1] == more + 36


def test_the_q_former_trains_on_it(saved: tuple[Any, Path, int], batch: dict[str, Any]) -> None:
    model = tiny_blip2(vit={"vit_model": f"hf:{saved[1]}", "img_size": 32, "freeze_vit": False})
    model({**batch, "image": torch.randn(6, 3, 32, 32), "epoch": 1}).loss.backward()
    without = [name for name, value in model.visual_encoder.named_parameters() if value.grad is None]
    assert all("mask_token" in name or "post_layernorm" in name for name in without), without
    assert model.part_files["visual_encoder"] == str(saved[1])


def test_what_reads_no_images_is_refused(tmp_path: Path) -> None:
    BertModel(BertConfig(**QFORMER)).save_pretrained(tmp_path / "bert")
    Siglip2VisionModel(Siglip2VisionConfig(**SIZES, num_patches=16, patch_size=8)).save_pretrained(tmp_path / "naflex")
    with pytest.raises(ValueError, match="is a BertModel, which reads no images"):
        build_tower(f"hf:{tmp_path / 'bert'}", 32, None)
    with pytest.raises(ValueError, match=r"NaFlex.*take one of a fixed resolution"):
        build_tower(f"hf:{tmp_path / 'naflex'}", 32, None)
    with pytest.raises(ValueError, match=r"model\.vit_model: .*give a hub name"):
        build_tower(f"hf:{tmp_path}", 32, None)
    with pytest.raises(ValueError, match=r"model\.vit_weights is 'x\.pth', but"):
        build_tower(f"hf:{tmp_path}", 32, "x.pth")
