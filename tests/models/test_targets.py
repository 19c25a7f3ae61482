"""The rival targets in the one forward: ALBEF's momentum distillation beside LAVIS' own, GRIT-VLP's consistency."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from lavis_mafa.core.pairs import SettledPairs
from lavis_mafa.core.settings import MafaSettings
from lavis_mafa.core.targets import TARGETS, ItcStep
from tests.models.test_albef import lavis_losses, own_losses
from tests.models.test_blip2_parity import GivenNegatives
from tests.models.tiny_albef import lavis_albef, tiny_mafa_albef


def student(**mafa: Any) -> Any:
    from lavis_mafa.models.teacher import Teacher

    model = tiny_mafa_albef(preset="none", **mafa).eval()
    model.teacher = Teacher(model) if model.mafa.targets == "momentum" else None
    return model


def test_momentum_distillation_is_that_of_lavis(batch: dict[str, Any]) -> None:
    """Half an epoch in, where α is a quarter of 0.4; LAVIS without its queue, which has random keys at the start."""
    ours = student(targets="momentum")
    ours.max_txt_len = ours.tokenize(batch["text_input"]).input_ids.shape[1]
    theirs = lavis_albef(ours).eval()
    with torch.no_grad():  # a student that has left its teacher, in both alike
        for name, parameter in ours.named_parameters():
            if not name.startswith("visual_encoder.pos_embed"):
                parameter.add_(0.02 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(7)))
    theirs.load_state_dict(ours.state_dict(), strict=False)
    theirs.alpha, theirs.image_queue, theirs.text_queue = 0.4, torch.empty(16, 0), torch.empty(16, 0)
    theirs._dequeue_and_enqueue = lambda *features: None
    now = {"epoch": 0, "iters": 1, "num_iters_per_epoch": 2}
    found = own_losses(ours, {**batch, **now})
    expected = lavis_losses(theirs, batch | {"image": batch["image"]}, **now)
    assert found["loss_mlm"].item() == pytest.approx(expected["loss_mlm"].item(), abs=1e-5)
    # LAVIS compares with the momentum model's keys, we with the student's own: the targets are what is shared
    text = torch.nn.functional.normalize(theirs.text_proj(expected.intermediate_output.text_embeds[:, 0]), dim=-1)
    image = torch.nn.functional.normalize(theirs.vision_proj(expected.intermediate_output.image_embeds[:, 0]), dim=-1)
    logits = image @ text.T / theirs.temp
    sums = [
        -(rows.log_softmax(1) * targets).sum(1).mean()
        for rows, targets in ((logits, expected.sims.sim_i2t_targets), (logits.T, expected.sims.sim_t2i_targets))
    ]
    assert found["loss_itc"].item() == pytest.approx((sum(sums) / 2).item(), abs=1e-5)
    assert found["loss_itc"].item() != pytest.approx(own_losses(student(), batch)["loss_itc"].item(), abs=1e-3)


def test_consistency_is_a_loss_of_its_own(batch: dict[str, Any]) -> None:
    plain, found = own_losses(student(), batch), own_losses(student(targets="consistency"), batch)
    assert set(found.losses) == {*plain.losses, "loss_consistency"}
    assert found["loss_itc"].item() == pytest.approx(plain["loss_itc"].item())
    image, text = found.image_embed, found.text_embed
    i2t = image @ text.T / student().temp
    expected = (
        -(i2t.log_softmax(1) * i2t.T.softmax(1)).sum(1).mean() - (i2t.T.log_softmax(1) * i2t.softmax(1)).sum(1).mean()
    )
    assert found["loss_consistency"].item() == pytest.approx(0.2 * expected.item() / 2, abs=1e-5)


def test_the_teacher_is_an_average_of_its_own_and_no_part_of_the_student(batch: dict[str, Any]) -> None:
    model = student(targets="momentum", ema=0.9)
    keys, before = set(tiny_mafa_albef().state_dict()), model.teacher.model.vision_proj.weight.clone()
    assert set(model.state_dict()) == keys
    with torch.no_grad():
        model.vision_proj.weight.add_(1.0)
    model.teacher.follow(model)
    torch.testing.assert_close(model.teacher.model.vision_proj.weight, before + 0.1)
    model.miner = GivenNegatives()
    model({**batch}).loss.backward()
    assert all(parameter.grad is None for parameter in model.teacher.model.parameters())


def test_the_copy_is_a_copy_with_gradient_checkpointing_too(batch: dict[str, Any]) -> None:
    from lavis.models.vit import VisionTransformerEncoder

    from lavis_mafa.models.teacher import Teacher

    model = tiny_mafa_albef(targets="momentum")
    sizes = {"img_size": 16, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2}
    tower = VisionTransformerEncoder(**sizes, use_grad_checkpointing=True, ckpt_layer=2)
    tower.load_state_dict(model.visual_encoder.state_dict())
    model.visual_encoder = tower
    teacher = Teacher(model)
    before = teacher.model.visual_encoder(batch["image"])
    with torch.no_grad():
        for parameter in tower.blocks.parameters():
            parameter.add_(0.5)
    torch.testing.assert_close(teacher.model.visual_encoder(batch["image"]), before)
    assert not torch.allclose(tower(batch["image"]), before)


def test_a_frozen_tower_is_shared_with_the_teacher(batch: dict[str, Any]) -> None:
    from lavis_mafa.models.albef.pretrain import MafaAlbef
    from lavis_mafa.models.teacher import Teacher

    parts = tiny_mafa_albef(targets="momentum")
    model = MafaAlbef(parts.visual_encoder, parts.text_encoder, parts.tokenizer, mafa=parts.mafa, freeze_vit=True)
    assert Teacher(model).model.visual_encoder is model.visual_encoder


@pytest.mark.parametrize(
    ("targets", "own"),
    [
        ("s_itc", 0.5 + 0.5 / 4),
        ("one_hot", 0.9 + 0.1 / 4),
        ("momentum", 0.7 * (0.9 + 0.1 / 4) + 0.3 / 4),
        ("consistency", 0.9 + 0.1 / 4),
    ],
)
def test_rows_of_all_kinds_by_hand(targets: str, own: float) -> None:
    """Four pairs, no connection, a teacher that knows nothing; LAVIS' label smoothing of 0.1 where S-ITC is off."""
    none = torch.empty(0, dtype=torch.long)
    settled, flat = SettledPairs(none, none, none, none.bool()), torch.zeros(4, 4)
    settings = MafaSettings(targets=targets)
    teacher = ((flat, flat), settings.distillation_at(1.5)) if settings.needs_teacher else None
    for rows in TARGETS[targets].rows(ItcStep(settings, 1, settled, torch.eye(4, dtype=torch.bool), 0, teacher)):
        torch.testing.assert_close(rows.diagonal(), torch.full((4,), own))
        torch.testing.assert_close(rows.sum(dim=1), torch.ones(4))


def test_the_teachers_word_grows_over_two_epochs() -> None:
    assert [MafaSettings().distillation_at(epochs) for epochs in (0, 1.5, 9)] == pytest.approx([0, 0.3, 0.4])
