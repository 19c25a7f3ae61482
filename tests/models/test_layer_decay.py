"""run.lr_layer_decay: the rates of a tower's layers, by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lavis_mafa.runners.layer_decay import ScaledSchedule, layer_scales, slow_lower_layers


class Tower(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patch_embed = nn.Linear(2, 2, bias=False)
        self.blocks = nn.ModuleList(nn.Linear(2, 2, bias=False) for _ in range(2))
        self.norm = nn.LayerNorm(2)


class ToOne:
    """A schedule as LAVIS' are: one rate for all groups."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.optimizer = optimizer

    def step(self, cur_epoch: int, cur_step: int) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = 1.0


def test_the_layers_of_a_tower_by_hand() -> None:
    tower = Tower()
    scales = layer_scales(tower, 0.5)
    found = [scales[parameter] for parameter in tower.parameters()]
    assert found == [0.125, 0.25, 0.5, 0.5, 0.5]  # patch_embed, blocks 0 and 1, norm's two


@pytest.mark.parametrize("name", ["eva_clip_g", "clip_L", "small_vit", "timm"])
def test_the_towers_that_can_be_trained_have_layers(name: str) -> None:
    scales = sorted(set(layer_scales(_tower(name), 0.5).values()))
    depth = {"eva_clip_g": 39, "clip_L": 21, "small_vit": 4, "timm": 2}[name]
    assert scales == [0.5**power for power in range(depth + 1, 0, -1)]


def _tower(name: str) -> nn.Module:
    import lavis_mafa

    lavis_mafa.register()
    if name == "small_vit":
        from lavis_mafa.models.towers.small_vit import SmallViT

        return SmallViT()
    if name == "timm":
        import timm

        return timm.create_model("vit_tiny_patch16_224", depth=2)
    if name == "clip_L":
        from lavis.models.clip_vit import VisionTransformer

        return VisionTransformer(28, 14, 16, 22, 2, False)
    from lavis.models.eva_vit import VisionTransformer as Eva

    return Eva(img_size=28, patch_size=14, use_mean_pooling=False, embed_dim=16, depth=39, num_heads=2)


def test_groups_keep_their_weight_decay_and_the_first_has_the_whole_rate() -> None:
    tower, head = Tower(), nn.Linear(2, 2)
    groups = [
        {"params": [tower.patch_embed.weight, *(block.weight for block in tower.blocks), head.weight]},
        {"params": [tower.norm.weight, tower.norm.bias, head.bias], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=3.0, weight_decay=0.1)
    slow_lower_layers(optimizer, tower, 0.5)
    schedule = ScaledSchedule(ToOne(optimizer), optimizer)
    for _ in range(2):  # the factors do not pile up
        schedule.step(cur_epoch=0, cur_step=0)
    found = {
        parameter: (group["lr"], group["weight_decay"])
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    assert found == {
        tower.patch_embed.weight: (0.125, 0.1),
        tower.blocks[0].weight: (0.25, 0.1),
        tower.blocks[1].weight: (0.5, 0.1),
        head.weight: (1.0, 0.1),
        tower.norm.weight: (0.5, 0.0),
        tower.norm.bias: (0.5, 0.0),
        head.bias: (1.0, 0.0),
    }
    assert optimizer.param_groups[0]["lr"] == 1.0


def test_a_decay_that_would_do_nothing_is_refused() -> None:
    tower = Tower().requires_grad_(False)
    optimizer = torch.optim.AdamW(nn.Linear(2, 2).parameters())
    for of in (tower, None):
        with pytest.raises(ValueError, match=r"no vision tower is trained; set model\.freeze_vit: false"):
            slow_lower_layers(optimizer, of, 0.9)
    with pytest.raises(ValueError, match="Sequential has no numbered blocks"):
        slow_lower_layers(optimizer, nn.Sequential(nn.Conv2d(3, 3, 1)), 0.9)
