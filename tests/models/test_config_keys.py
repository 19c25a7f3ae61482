"""Models and processors say which keys they read: held against what their constructors ask of a config."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from contextlib import nullcontext
from functools import cache
from inspect import getsource
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

import lavis_mafa
from tests.tiny_text import save_encoder

ARCHS = (
    *("mafa_blip2", "mafa_blip2_opt", "mafa_blip2_t5", "mafa_blip2_llm", "mafa_openclip", "mafa_dual"),
    *("mafa_albef", "mafa_albef_retrieval", "mafa_albef_lavis", "mafa_albef_vqa", "mafa_albef_nlvr"),
)


@pytest.fixture(scope="module", autouse=True)
def registered() -> None:
    lavis_mafa.register()


def model_class(arch: str) -> Any:
    from lavis.common.registry import registry

    return registry.get_model_class(arch)


class Asked(dict[str, Any]):
    """A config that notes the keys it is asked for."""

    def __init__(self, values: dict[str, Any]) -> None:
        super().__init__(values)
        self.keys_read: set[str] = set()

    def get(self, key: str, default: Any = None) -> Any:
        self.keys_read.add(key)
        return super().get(key, default)

    def __getitem__(self, key: str) -> Any:
        self.keys_read.add(key)
        return super().__getitem__(key)

    def __contains__(self, key: object) -> bool:
        self.keys_read.add(str(key))
        return super().__contains__(key)


def configs(model_cls: Any) -> Iterator[dict[str, Any]]:
    """A config without a checkpoint and one that names none, of a small type; of ALBEF also one with LAVIS' ViT."""
    types = set(model_cls.PRETRAINED_MODEL_CONFIG_DICT)
    for model_type in {"scenes", "base"} & types or types:
        if model_type == "base" and "vit_type" not in model_cls.config_keys:
            continue  # any OpenCLIP model
        config: Any = OmegaConf.to_container(OmegaConf.load(model_cls.default_config_path(model_type)).model)
        if "llm_model" in config:
            config |= {"llm_model": "package:assets/scenes_opt", "vocab": "package:data/scenes/vocab.txt"}
            config |= {"freeze_vit": False}  # its tower comes without weights
        if "text_model" in config:
            config |= {"vit_model": "small_vit", "vit_weights": "package:assets/scenes_tower.safetensors"}
            config |= {"image_size": 48, "text_model": tiny_encoder()}
        if "bert" in config:
            config |= {"bert": None, "vit_weights": config["vit_weights"] if config["vit_model"] else None}
        yield config | {"load_finetuned": False, "load_pretrained": False}
        for name in ("finetuned", "pretrained"):
            yield config | {"load_finetuned": False, "load_pretrained": False} | {f"load_{name}": True, name: ""}


@cache
def tiny_encoder() -> str:
    folder = Path(tempfile.mkdtemp()) / "encoder"
    save_encoder(folder)
    return str(folder)


def keys_read(arch: str) -> set[str]:
    from lavis_mafa.models.meta import on_meta_device

    read: set[str] = set()
    for config in configs(model_class(arch)):
        asked = Asked(config)
        with nullcontext() if "text_model" in config else on_meta_device():  # transformers loads none on `meta`
            try:
                model_class(arch).from_config(asked)
            except ValueError as error:
                assert "is not set" in str(error), error
        read |= asked.keys_read
    return read


def test_every_model_of_ours_is_here() -> None:
    from lavis.common.registry import registry

    from lavis_mafa.config.keys import is_ours

    assert {name for name, cls in registry.mapping["model_name_mapping"].items() if is_ours(cls)} == set(ARCHS)


@pytest.mark.parametrize("arch", ARCHS)
def test_a_model_reads_the_keys_that_it_names_and_no_others(arch: str) -> None:
    assert keys_read(arch) == set(model_class(arch).config_keys)


@pytest.mark.parametrize("arch", ARCHS)
def test_a_key_of_another_model_is_refused_with_the_closest_of_this_one(arch: str) -> None:
    from lavis_mafa.config.keys import check_keys, model_keys

    model_cls = model_class(arch)
    own = model_keys(model_cls, next(iter(model_cls.PRETRAINED_MODEL_CONFIG_DICT)))
    check_keys(dict.fromkeys(own), own, "model")
    foreign = {key for other in ARCHS for key in model_class(other).config_keys} - set(own)
    assert foreign
    for key in foreign:
        with pytest.raises(ValueError, match=rf"unknown key model\.{key}: did you mean model\.") as refused:
            check_keys({key: 1}, own, "model")
        assert str(refused.value).split("model.")[-1].rstrip("?") in own


def processors(ours: bool) -> dict[str, Any]:
    from lavis.common.registry import registry

    from lavis_mafa.config.keys import is_ours

    return {name: cls for name, cls in registry.mapping["processor_name_mapping"].items() if is_ours(cls) == ours}


def test_the_constructors_of_lavis_processors_take_what_their_from_config_reads() -> None:
    from lavis_mafa.config.keys import processor_keys

    for name, processor in processors(ours=False).items():
        read = re.findall(r"""cfg\.get\(\s*["'](\w+)""", getsource(processor.from_config))
        assert sorted(processor_keys(processor)) == sorted(["name", *read]), name


def test_our_processors_read_the_keys_that_they_name() -> None:
    values = {"vit_model": "open_clip:mafa-scenes", "image_size": 32, "mean": 0.5, "std": 0.5}
    assert processors(ours=True)
    for name, processor in processors(ours=True).items():
        asked = Asked(values)
        processor.from_config(asked)
        assert asked.keys_read == set(processor.config_keys), name
