"""BLIP-2 stage 1 and transformers' Blip2ForImageTextRetrieval: one network in two classes."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import Blip2ForImageTextRetrieval

import lavis_mafa
from lavis_mafa.models.blip2.hugging_face import config_of, from_hugging_face, is_hugging_face, to_hugging_face
from tests.models.test_meta_device import built, vocabulary  # noqa: F401  a fixture
from tests.models.tiny import CAPTIONS, loud, tiny_blip2


@pytest.fixture(scope="module")
def ours() -> Any:
    """A tiny Q-Former on a tiny EVA tower."""
    lavis_mafa.register()
    from lavis.models.eva_vit import VisionTransformer

    from lavis_mafa.models.towers.build import TOWERS

    def eva(name: str, image_size: int, weights: str | None) -> nn.Module:
        tower = VisionTransformer(
            img_size=image_size, patch_size=14, use_mean_pooling=False, embed_dim=32, depth=2, num_heads=2, mlp_ratio=2,
            qkv_bias=True, norm_layer=partial(nn.LayerNorm, eps=1e-6),
        )  # fmt: skip
        tower.num_features = 32
        return tower

    TOWERS["tiny_eva"] = eva
    try:
        model = loud(tiny_blip2({"vit_model": "tiny_eva", "img_size": 28}))
    finally:
        del TOWERS["tiny_eva"]
    with torch.no_grad():
        for block in model.visual_encoder.blocks:
            block.attn.q_bias.normal_()
            block.attn.v_bias.normal_()
        model.temp.fill_(0.05)
    return model


@pytest.fixture(scope="module")
def theirs(ours: Any) -> Blip2ForImageTextRetrieval:
    model = Blip2ForImageTextRetrieval(config_of(ours)).eval()
    state, _ = to_hugging_face(ours.state_dict())
    model.load_state_dict(state, strict=True)
    return model


@torch.no_grad()
def test_itc_and_itm_are_equal(ours: Any, theirs: Blip2ForImageTextRetrieval) -> None:
    images = torch.randn(len(CAPTIONS), 3, 28, 28, generator=torch.Generator().manual_seed(1))
    tokens = ours.tokenize(CAPTIONS)
    given = {"pixel_values": images, "input_ids": tokens.input_ids, "attention_mask": tokens.attention_mask}
    vision = ours.visual_encoder(images)
    _, image_feat, _ = ours.encode_image(vision)
    sim_BB = torch.einsum("bqd,wd->bwq", image_feat, ours.encode_text(tokens)).amax(-1)
    found = theirs(**given)
    torch.testing.assert_close(found.logits_per_image, sim_BB, atol=1e-4, rtol=1e-4)
    at = torch.arange(len(CAPTIONS))
    matched = ours.match_logits(ours.pair_state(vision, tokens), at, at)
    found = theirs(**given, use_image_text_matching_head=True)
    torch.testing.assert_close(found.logits_per_image, matched, atol=1e-4, rtol=1e-4)
    assert sim_BB.std() > 0.05 and matched.std() > 0.05, "the network says something"


def test_there_and_back_is_the_same(ours: Any) -> None:
    state = ours.state_dict()
    back = from_hugging_face(*to_hugging_face(state))
    assert set(state) - set(back) <= {"Qformer.bert.embeddings.position_ids"} and set(back) <= set(state)
    assert all(torch.equal(state[key], value) for key, value in back.items())
    assert "temp" in back and "Qformer.cls.predictions.bias" in back


def test_a_saved_folder_is_a_checkpoint(ours: Any, tmp_path: Path) -> None:
    from lavis_mafa.convert import to_folder
    from lavis_mafa.models.pretrained import load_checkpoint

    folder = to_folder(ours, tmp_path / "hf")
    again = Blip2ForImageTextRetrieval.from_pretrained(folder)
    assert is_hugging_face(again.state_dict())
    other = tiny_copy(ours)
    load_checkpoint(other, str(folder))
    assert all(torch.equal(value, ours.state_dict()[key]) for key, value in other.state_dict().items())
    (folder / "lavis_mafa.safetensors").unlink()  # as in a folder that others published
    load_checkpoint(tiny_copy(ours), str(folder))


def tiny_copy(model: Any) -> Any:
    from copy import deepcopy

    other = deepcopy(model)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    return other


def test_the_command_converts_both_ways(ours: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lavis_mafa import convert

    folder = convert.to_folder(ours, tmp_path / "hf")
    file = tmp_path / "back.safetensors"
    monkeypatch.setattr("sys.argv", ["convert", "from-hf", str(folder), str(file)])
    convert.main()
    state = load_file(file)
    assert all(torch.equal(state[key], value) for key, value in ours.state_dict().items() if key in state)
    assert "temp" in state
    with pytest.raises(SystemExit, match="exists"):
        convert.main()


def test_another_tower_is_refused() -> None:
    lavis_mafa.register()
    with pytest.raises(ValueError, match="EVA tower"):
        to_hugging_face(tiny_blip2().state_dict())


@pytest.mark.parametrize("model_type", ["pretrain", "coco"])
def test_full_size_keys_and_shapes(model_type: str, vocabulary: Path) -> None:  # noqa: F811
    lavis_mafa.register()
    ours = built("mafa_blip2", model_type, vocabulary)
    state, _ = to_hugging_face(ours.state_dict())
    with torch.device("meta"):
        theirs = Blip2ForImageTextRetrieval(config_of(ours))
    assert {key: value.shape for key, value in state.items()} == {
        key: value.shape for key, value in theirs.state_dict().items()
    }
