"""`run.lr_layer_decay`: in fine-tuning, the lower layers of a trained vision tower learn slower.

BEiT (arXiv 2106.08254) and the fine-tuning of BLIP-2 (arXiv 2301.12597, appendix) do so. LAVIS' main branch has the
key; its schedules there set one learning rate for all groups, so a schedule is wrapped here.
"""

from __future__ import annotations

import re
from collections import defaultdict

import torch
from torch import nn

from lavis_mafa.tasks.loop import Schedule

BLOCK = re.compile(r"(?:^|\.)(?:blocks|resblocks|layers|layer)\.(\d+)\.")  # of EVA and timm, CLIP, transformers


def layer_scales(tower: nn.Module, decay: float) -> dict[nn.Parameter, float]:
    """decay^(N + 1 - layer) of a tower of N blocks: before them is layer 0, block n is layer n + 1, after them layer N.

    Raises:
        ValueError: a tower whose blocks are not numbered, as a convolutional one's.
    """
    blocks = [BLOCK.search(name) for name, _ in tower.named_parameters()]
    count = 1 + max((int(match[1]) for match in blocks if match), default=-1)
    if not count:
        raise ValueError(f"run.lr_layer_decay: {type(tower).__name__} has no numbered blocks; leave it at 1")
    scales, above = {}, 0
    for parameter, match in zip(tower.parameters(), blocks, strict=True):
        above = count if match else above
        scales[parameter] = decay ** (count + 1 - (int(match[1]) + 1 if match else above))
    return scales


def slow_lower_layers(optimizer: torch.optim.Optimizer, tower: nn.Module | None, decay: float) -> None:
    """Split the groups of a new optimizer by learning rate; a group's factor is its `lr_scale`.

    Raises:
        ValueError: no parameter of the tower is trained.
    """
    scales = layer_scales(tower, decay) if tower is not None else {}
    if not any(parameter.requires_grad for parameter in scales):
        raise ValueError(
            f"run.lr_layer_decay is {decay} and no vision tower is trained; set model.freeze_vit: false, or leave it "
            "at 1"
        )
    groups = []
    for group in optimizer.param_groups:
        parts: defaultdict[float, list[nn.Parameter]] = defaultdict(list)
        for parameter in group["params"]:
            parts[scales.get(parameter, 1.0)].append(parameter)
        groups += [{**group, "params": parts[scale], "lr_scale": scale} for scale in parts]
    optimizer.param_groups.clear()
    for group in sorted(groups, key=lambda group: -group["lr_scale"]):  # the first one's rate is what the journal has
        optimizer.add_param_group(group)


class ScaledSchedule:
    """A LAVIS schedule after which each group's learning rate is multiplied by its `lr_scale`."""

    def __init__(self, schedule: Schedule, optimizer: torch.optim.Optimizer) -> None:
        self.schedule, self.optimizer = schedule, optimizer

    def step(self, cur_epoch: int, cur_step: int) -> None:
        self.schedule.step(cur_epoch=cur_epoch, cur_step=cur_step)
        for group in self.optimizer.param_groups:
            group["lr"] *= group["lr_scale"]
