"""mafa_albef against LAVIS' albef_pretrain: same keys, the same losses where MAFA is off and the draws agree."""

from __future__ import annotations

from typing import Any
from unittest import mock

import pytest
import torch
import torch.nn.functional as F

from tests.models.test_blip2_parity import NEGATIVE_IMAGE, NEGATIVE_TEXT, GivenNegatives
from tests.models.tiny_albef import lavis_albef, tiny_mafa_albef

MOMENTUM = (
    "visual_encoder_m.",
    "text_encoder_m.",
    "vision_proj_m.",
    "text_proj_m.",
    "image_queue",
    "text_queue",
    "queue_ptr",
)


def own_losses(ours: Any, batch: dict[str, Any]) -> Any:
    ours.miner = GivenNegatives()
    torch.manual_seed(5)  # the masks are drawn from here
    return ours({**batch})


def lavis_losses(theirs: Any, batch: dict[str, Any], **now: int) -> Any:
    """LAVIS' forward with the draw of its negatives fixed, and the same masks."""
    drawn = iter([torch.tensor([row]) for row in NEGATIVE_IMAGE + NEGATIVE_TEXT])
    torch.manual_seed(5)
    with mock.patch("torch.multinomial", lambda weights, count: next(drawn)):
        return theirs({**batch, "epoch": 0, "iters": 0, "num_iters_per_epoch": 1, **now})


@pytest.fixture
def ours(batch: dict[str, Any]) -> Any:
    model = tiny_mafa_albef(preset="none").eval()
    # LAVIS pads to max_txt_len: so the masks' shapes agree
    model.max_txt_len = model.tokenize(batch["text_input"]).input_ids.shape[1]
    return model


def test_keys_are_lavis_keys_without_momentum_and_queue(ours: Any) -> None:
    lavis = {key for key in lavis_albef(ours).state_dict() if not key.startswith(MOMENTUM)}
    assert set(ours.state_dict()) == lavis


def test_itm_and_mlm_and_their_gradients_equal_lavis(ours: Any, batch: dict[str, Any]) -> None:
    theirs = lavis_albef(ours).eval()
    found, expected = own_losses(ours, batch), lavis_losses(theirs, batch)
    for name in ("loss_itm", "loss_mlm"):
        assert found[name].item() == pytest.approx(expected[name].item(), abs=1e-5), name
    (found["loss_itm"] + found["loss_mlm"]).backward()
    (expected["loss_itm"] + expected["loss_mlm"]).backward()
    own = dict(ours.named_parameters())
    for name, parameter in theirs.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(own[name].grad, parameter.grad, atol=2e-5, rtol=1e-3, msg=name)


def test_itc_is_the_symmetric_cross_entropy_of_the_local_batch(ours: Any, batch: dict[str, Any]) -> None:
    image = F.normalize(ours.vision_proj(ours.visual_encoder(batch["image"])[:, 0]), dim=-1)
    tokens = ours.tokenize(batch["text_input"])
    states = ours.text_encoder.bert(
        tokens.input_ids, attention_mask=tokens.attention_mask, return_dict=True, mode="text"
    )
    text = F.normalize(ours.text_proj(states.last_hidden_state[:, 0]), dim=-1)
    logits, own = image @ text.T / ours.temp, torch.arange(6)
    expected = (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2
    assert own_losses(ours, batch)["loss_itc"].item() == pytest.approx(expected.item(), abs=1e-5)


def test_a_batch_without_a_masked_token_has_an_mlm_loss_of_zero(ours: Any, batch: dict[str, Any]) -> None:
    ours.mlm_probability = 0.0
    output = own_losses(ours, batch)
    assert output["loss_mlm"].item() == 0.0
    output.loss.backward()
    assert torch.isfinite(ours.itm_head.weight.grad).all()


def test_temperature_is_clamped(ours: Any, batch: dict[str, Any]) -> None:
    for start, end in ((0.7, 0.5), (1e-5, 0.001), (0.2, 0.2)):
        ours.temp.data.fill_(start)
        own_losses(ours, batch)
        assert ours.temp.item() == pytest.approx(end)


def test_there_is_no_gathering_by_default() -> None:
    assert not tiny_mafa_albef().mafa.itc_gather
    assert tiny_mafa_albef(preset="official").mafa.label_smoothing == 0.0


def test_a_frozen_tower_gets_no_gradient_and_reads_cached_tokens(batch: dict[str, Any]) -> None:
    from lavis_mafa.models.albef.pretrain import MafaAlbef

    parts = tiny_mafa_albef()
    model = MafaAlbef(
        parts.visual_encoder, parts.text_encoder, parts.tokenizer, mafa=parts.mafa, freeze_vit=True, embed_dim=16
    ).train()
    assert not model.visual_encoder.training
    from_images = model.eval().encode(batch).image_feat
    tokens = {**batch, "image_tokens": model.visual_encoder(batch["image"]).half(), "image": None}
    torch.testing.assert_close(model.encode(tokens).image_feat, from_images, atol=2e-3, rtol=1e-2)
    model({**batch}).loss.backward()
    assert all(parameter.grad is None for parameter in model.visual_encoder.parameters())


@pytest.mark.parametrize("name", ["small_vit", "torchvision:mobilenet_v2"])
def test_any_tower_is_a_visual_encoder(name: str) -> None:
    """A backbone without a class token is summed up by the mean of its tokens."""
    from lavis_mafa.models.albef.pretrain import MafaAlbef
    from lavis_mafa.models.towers.build import build_tower

    parts = tiny_mafa_albef()
    tower = build_tower(name, 32 if ":" in name else 48, None).eval()
    bert = parts.text_encoder
    model = MafaAlbef(tower, bert, parts.tokenizer, embed_dim=16).eval()
    tokens = torch.randn(2, 5, tower.num_features)
    summary = tokens[:, 0] if name == "small_vit" else tokens.mean(1)
    torch.testing.assert_close(model.encode_image(tokens)[1][:, 0], F.normalize(model.vision_proj(summary), dim=-1))
