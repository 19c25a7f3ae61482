"""lavis_mafa.register(), and LAVIS' own ways to what it registers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image

import lavis_mafa

NAMES = {
    "model_name_mapping": {"mafa_blip2"},
    "builder_name_mapping": {"image_text", "scenes"},
    "task_name_mapping": {"mafa_pretrain"},
    "runner_name_mapping": {"grit_runner"},
}


def test_registering_again_changes_nothing() -> None:
    from lavis.common.registry import registry

    before = {kind: dict(names) for kind, names in registry.mapping.items()}
    lavis_mafa.register()
    assert {kind: dict(names) for kind, names in registry.mapping.items()} == before


@pytest.mark.parametrize("kind", NAMES)
def test_names_are_in_the_registry(kind: str) -> None:
    from lavis.common.registry import registry

    assert NAMES[kind] <= set(registry.mapping[kind])


def test_schedulers_that_lavis_forgets_are_there() -> None:
    from lavis.common.registry import registry

    assert registry.get_lr_scheduler_class("linear_warmup_cosine_lr") is not None


def test_lavis_loads_the_packaged_model() -> None:
    from lavis.models import load_model_and_preprocess

    model, vis, text = load_model_and_preprocess("mafa_blip2", "scenes", is_eval=True)
    image = vis["eval"](Image.new("RGB", (60, 50), "red"))[None]
    sample = {"image": image, "text_input": [text["eval"]("A red circle!")]}
    features = model.extract_features(sample, mode="image")
    assert features.image_embeds_proj.shape == (1, 8, 64)
    assert "scenes_tower" in model.origin["visual_encoder"]
    torch.testing.assert_close(model.encode_image(model.vision_tokens(sample))[1], features.image_embeds_proj)


def model_types() -> list[str]:
    return ["pretrain", "pretrain_vitL", "coco", "scenes", "small"]


def test_every_type_is_listed() -> None:
    from lavis.common.registry import registry

    assert list(registry.get_model_class("mafa_blip2").PRETRAINED_MODEL_CONFIG_DICT) == model_types()


@pytest.mark.parametrize("model_type", model_types())
def test_config_file_says_what_a_model_needs(model_type: str) -> None:
    from lavis.common.registry import registry
    from lavis.models import load_preprocess

    model_cls = registry.get_model_class("mafa_blip2")
    config = OmegaConf.load(model_cls.default_config_path(model_type))
    assert config.model.arch == "mafa_blip2"
    vis, text = load_preprocess(config.preprocess)
    image = Image.new("RGB", (40, 30))
    for split in ("train", "eval"):
        assert vis[split](image).shape == (3, config.model.image_size, config.model.image_size)
        assert isinstance(text[split]("Any caption."), str)


@pytest.mark.parametrize("model_type", ["pretrain", "pretrain_vitL", "coco"])
def test_published_types_say_what_lavis_says(model_type: str) -> None:
    """Sizes, precision and addresses are LAVIS' own: a published checkpoint meets the network it was made for."""
    from lavis.common.registry import registry

    ours, theirs = (
        OmegaConf.load(registry.get_model_class(arch).default_config_path(model_type)).model
        for arch in ("mafa_blip2", "blip2")
    )
    expected: dict[str, Any] = {key: value for key, value in theirs.items() if key != "arch"}
    assert {key: ours.get(key) for key in expected} == expected
