"""The shipped vision tower: a linear probe on its patch tokens names what unseen scenes hold."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch import Tensor

import lavis_mafa
from lavis_mafa.data.scenes.dataset import open_scene
from lavis_mafa.data.scenes.scene import COLOURS, GRID, PATTERNS, SHAPES, SIZES, TONES, scene_number
from lavis_mafa.models.towers.small_vit import SmallViT

TOWER = Path(lavis_mafa.__file__).parent / "assets" / "scenes_tower.safetensors"
BAR = 0.97  # of unseen scenes' objects (and backgrounds) that the probe must name rightly
FIT, UNSEEN = 700, 300


@pytest.fixture(scope="module")
def tower() -> SmallViT:
    with safe_open(TOWER, framework="pt") as file:
        model = SmallViT(**json.loads(file.metadata()["config"]))
        state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    assert {tensor.dtype for tensor in state.values()} == {torch.float16}
    model.load_state_dict({name: tensor.float() for name, tensor in state.items()})
    return model.eval()


@pytest.fixture(scope="module")
def tokens(tower: SmallViT) -> Tensor:
    pixels = np.stack([np.asarray(open_scene(77, index)) for index in range(FIT + UNSEEN)])
    with torch.no_grad():
        return tower(torch.from_numpy(pixels).permute(0, 3, 1, 2) / 127.5 - 1)  # (B, 37, 128)


def probe(features: Tensor, labels: Tensor, classes: int, fit: Tensor) -> float:
    """Accuracy off the rows `fit` of the linear least-squares reader that was fitted on them."""
    inputs = torch.cat([features, torch.ones(len(features), 1)], dim=1).double()
    targets = torch.eye(classes, dtype=torch.float64)[labels]
    ridge = inputs[fit].T @ inputs[fit] + 1e-2 * torch.eye(inputs.shape[1])
    reader = torch.linalg.solve(ridge, inputs[fit].T @ targets[fit])
    return ((inputs[~fit] @ reader).argmax(1) == labels[~fit]).double().mean().item()


def test_the_tower_is_small_enough_to_ship():
    assert TOWER.stat().st_size <= 4 * 2**20


@pytest.mark.parametrize("field, classes", [("shape", len(SHAPES)), ("colour", len(COLOURS)), ("size", len(SIZES))])
def test_patch_tokens_tell_the_objects(tokens, field, classes):
    objects = [(index, one) for index in range(FIT + UNSEEN) for one in scene_number(77, index).objects]
    first = [1 + 2 * GRID * 2 * one.row + 2 * one.column for _, one in objects]  # the first of the cell's four patches
    scene = torch.tensor([index for index, _ in objects])
    features = tokens[scene, torch.tensor(first)]
    labels = torch.tensor([getattr(one, field) for _, one in objects])
    assert probe(features, labels, classes, scene < FIT) >= BAR


def test_the_class_token_tells_the_background(tokens):
    scenes = [scene_number(77, index) for index in range(FIT + UNSEEN)]
    labels = torch.tensor([scene.tone * len(PATTERNS) + scene.pattern for scene in scenes])
    assert probe(tokens[:, 0], labels, len(TONES) * len(PATTERNS), torch.arange(FIT + UNSEEN) < FIT) >= BAR


def test_sizes_that_do_not_divide_are_refused():
    with pytest.raises(ValueError, match="multiple"):
        SmallViT(image_size=50, patch_size=8)
