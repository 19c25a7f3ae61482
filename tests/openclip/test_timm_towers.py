"""SigLIP and EVA02 towers, which come from timm, train and give tokens to a Q-Former."""

import json
import logging

import numpy as np
import open_clip
import pandas as pd
import pytest
import torch
from PIL import Image

from lavis_mafa.models.towers.openclip import TowerName, build_openclip_tower

from . import launch
from .tiny import CONFIG

TOWERS = {
    # as SigLIP's: no class token, pooled by attention, no projection, a bias of the logits
    "tiny-pooled": {
        "embed_dim": 96,
        "init_logit_bias": -10,
        "vision_cfg": {"image_size": 160, "timm_model_name": "test_vit3", "timm_pool": "map", "timm_proj": "none"},
    },
    "tiny-eva02": {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 224, "timm_model_name": "eva02_tiny_patch14_224", "timm_proj": None},
    },
}
TOKENS = {"tiny-pooled": (1 + 10 * 10, 96), "tiny-eva02": (1 + 16 * 16, 192)}


@pytest.fixture(autouse=True)
def quiet_logging():
    before = logging.getLogger().handlers[:]
    yield
    logging.getLogger().handlers = before


@pytest.fixture(scope="module", autouse=True)
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("timm")
    for name, config in TOWERS.items():
        text = {**CONFIG["text_cfg"], "no_causal_mask": name == "tiny-pooled"}
        (folder / f"{name}.json").write_text(json.dumps({**config, "text_cfg": text, "custom_text": True}))
        open_clip.add_model_config(folder / f"{name}.json")
    rng, rows = np.random.default_rng(0), []
    for number in range(launch.BATCH):
        path = folder / f"{number}.png"
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(path)
        rows.append((str(path), f"image number {number}"))
    pd.DataFrame(rows, columns=["filepath", "title"]).to_csv(folder / "train.csv", sep="\t", index=False)
    return folder


@pytest.mark.parametrize(("name", "more"), [("tiny-pooled", ["--siglip"]), ("tiny-eva02", [])])
def test_they_train_in_open_clips_loop(monkeypatch, data, tmp_path, name, more):
    argv = launch.arguments(data / "train.csv", tmp_path, *more, "--epochs", 1)
    argv[argv.index("tiny-train")] = name
    calls = launch.run(monkeypatch, argv)
    assert len(calls) == 1
    assert all(call["contrastive_loss"].isfinite() for call in calls)
    kind = "MafaSigLipLoss" if more else "MafaClipLoss"
    assert {type(call["loss"]).__name__ for call in calls} == {kind}


@pytest.mark.parametrize("name", TOWERS)
def test_they_give_tokens_to_a_q_former(data, tmp_path, name):
    torch.manual_seed(0)
    model = open_clip.create_model(name)
    torch.save(model.state_dict(), tmp_path / "whole.pt")
    tower = build_openclip_tower(f"open_clip:{name}/{tmp_path / 'whole.pt'}", None, None).eval()
    images = torch.randn(2, 3, *[TowerName(name, None).preprocessing.size] * 2)
    with torch.no_grad():
        tokens = tower(images)
        assert tokens.shape == (2, *TOKENS[name])
        torch.testing.assert_close(tokens, model.visual.eval().trunk.forward_features(images))
    tower(images).sum().backward()
    assert all(parameter.grad is not None for parameter in tower.parameters())
