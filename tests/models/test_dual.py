"""mafa_dual on tiny frozen parts: what is trained, what is kept, and that it loads and judges again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from omegaconf import OmegaConf
from safetensors.torch import load_file

import lavis_mafa
from lavis_mafa.core.settings import MafaSettings
from tests.jobs.commands import run, train
from tests.tiny_text import save_encoder

lavis_mafa.register()

from lavis_mafa.models.dual import MafaDual  # noqa: E402  after LAVIS

TOWER = "package:assets/scenes_tower.safetensors"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("text")
    save_encoder(folder)
    return str(folder)


def build(folder: str, **changed: object) -> MafaDual:
    defaults = OmegaConf.load(MafaDual.default_config_path("small")).model
    parts = {"vit_model": "small_vit", "vit_weights": TOWER, "image_size": 48, "text_model": folder, "embed_dim": 8}
    return MafaDual.from_config(OmegaConf.merge(defaults, parts, changed)).float()


def test_features_are_the_heads_of_what_the_frozen_parts_say(folder: str) -> None:
    model = build(folder).eval()
    image, texts = torch.randn(3, 3, 48, 48), ["a red circle", "a blue ring", "a dog"]
    pooled = model.visual_encoder.tower(image).mean(dim=1)
    tokens = model.vision_tokens({"image": image})
    assert torch.equal(tokens[:, 0], pooled)
    image_feat = model.encode_image(tokens)[1]
    torch.testing.assert_close(image_feat[:, 0], F.normalize(model.vision_proj(pooled), dim=-1))
    states = model.read(texts)
    torch.testing.assert_close(model.encode_text(model.tokenize(texts)), F.normalize(model.text_proj(states), dim=-1))


def test_heads_alone_learn_and_are_saved(folder: str) -> None:
    from lavis_mafa.models.trained import trained_state

    model = build(folder).train()
    assert not model.visual_encoder.training and not model.text_encoder.training
    batch = {"image": torch.randn(4, 3, 48, 48), "text_input": ["a", "b", "c", "d"]}
    model(batch).loss.backward()
    learning = {name.split(".")[0] for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert learning == {"vision_proj", "text_proj", "temp"} == {name.split(".")[0] for name in trained_state(model)}


def test_its_loss_is_clips(folder: str) -> None:
    model = build(folder, mafa={"preset": "none"}, dropout=0.0)
    batch = {"image": torch.randn(4, 3, 48, 48), "text_input": ["a", "b", "c", "d"]}
    image = model.encode_image(model.vision_tokens(batch))[1][:, 0]
    logits = image @ model.encode_text(model.tokenize(batch["text_input"])).T / model.temp
    own = torch.arange(4)
    by_hand = (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2
    torch.testing.assert_close(model(batch).loss, by_hand)
    assert model.mafa == MafaSettings.from_dict({"preset": "none", "itc_key_grad": True, "label_smoothing": 0.0})


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"text_model": ""}, "model.text_model: mafa_dual needs a sentence encoder"),
        ({"text_model": "./nowhere"}, "model.text_model: no folder at ./nowhere"),
        ({"vit_model": "eva_clip_g"}, "model.vit_model: mafa_dual reads no eva_clip_g"),
        ({"vit_weights": None, "load_pretrained": False}, "tower has no weights; set model.vit_weights"),
    ],
)
def test_what_cannot_be_built(folder: str, changed: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(folder, **changed)


def test_a_run_trains_resumes_bit_equal_and_loads(folder: str, tmp_path: Path) -> None:
    options = [
        *("model.vit_model=small_vit", f"model.vit_weights={TOWER}", "model.image_size=48"),
        *(f"model.text_model={folder}", "model.embed_dim=8", "datasets.scenes.splits.train.n=64"),
        *("datasets.scenes.splits.val.n=16", "datasets.scenes.splits.test.n=16", "run.batch_size_train=16"),
        *("run.max_epoch=2", "run.warmup_steps=2", "run.search_space=32", "run.cache_tokens=true"),
    ]
    config = tmp_path / "dual.yaml"
    config.write_text(
        "model: {arch: mafa_dual, model_type: small, mafa: {preset: none}}\ndatasets: {scenes: {}}\n"
        "run: {seed: 1, sampling: grit, resume_ckpt_path: auto, valid_splits: [], token_folder: "
        f"{tmp_path}/tokens}}\n"
    )
    for name, stops in (("whole", [2]), ("twice", [1, 2])):
        for stop in stops:
            run(*train(str(config), *options, f"run.stop_epoch={stop}", f"run.output_dir={tmp_path / name}"))
    whole, twice = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "twice"))
    assert all(torch.equal(whole[key], twice[key]) for key in whole)
    found = json.loads((tmp_path / "whole" / "results.json").read_text())["retrieval"]
    assert "itc" in found and "itm" not in found
    loaded = lavis_mafa.load(tmp_path / "whole")
    assert torch.equal(loaded.model.vision_proj.straight.weight, whole["vision_proj.straight.weight"])
