"""Models of open_clip by name, from a folder, and from the hub (whose answer is a local file here)."""

from __future__ import annotations

import json
from pathlib import Path

import open_clip
import pytest
import torch
from safetensors.torch import save_file

import lavis_mafa.openclip  # noqa: F401  open_clip knows mafa-scenes
from lavis_mafa.openclip import names
from lavis_mafa.openclip.names import brings_weights, model_config, preprocessing


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model as open_clip publishes one."""
    torch.manual_seed(3)
    config = {"model_cfg": open_clip.get_model_config("mafa-scenes"), "preprocess_cfg": {"mean": [0.5, 0.4, 0.3]}}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    model = open_clip.create_model("mafa-scenes")
    save_file(model.state_dict(), tmp_path / "open_clip_model.safetensors")
    return tmp_path


def test_a_folder_says_what_it_is(folder: Path) -> None:
    name = f"local-dir:{folder}"
    assert brings_weights(name) and not brings_weights("ViT-B-32")
    assert model_config(name, "--model") == open_clip.get_model_config("mafa-scenes")
    assert preprocessing(name, "--model") == {"mean": [0.5, 0.4, 0.3]}


def test_a_repository_of_the_hub_is_asked_for_its_config(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str]] = []
    monkeypatch.setattr(
        names, "download_pretrained_from_hf", lambda place, file: asked.append((place, file)) or folder / file
    )
    assert (
        model_config("hf-hub:org/tiny", "--model")["embed_dim"] == model_config("mafa-scenes", "--model")["embed_dim"]
    )
    assert asked == [("org/tiny", "open_clip_config.json")]


def test_what_is_no_model_is_named_with_its_key(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"--model: open_clip has no model 'ViT-B-33'; did you mean ViT-B-32\?"):
        model_config("ViT-B-33", "--model")
    with pytest.raises(ValueError, match=r"--model: local-dir:.* has no readable open_clip_config.json"):
        model_config(f"local-dir:{tmp_path}", "--model")
    (tmp_path / "open_clip_config.json").write_text("{}")
    with pytest.raises(ValueError, match="has no model_cfg"):
        model_config(f"local-dir:{tmp_path}", "--model")


def test_a_tower_and_a_dual_encoder_come_from_a_folder(folder: Path) -> None:
    pytest.importorskip("lavis", reason="LAVIS' models")
    import lavis_mafa

    lavis_mafa.register()
    from lavis_mafa.models.openclip import MafaOpenClip
    from lavis_mafa.models.towers.build import build_tower
    from lavis_mafa.models.towers.openclip import TowerName, image_settings

    name = f"open_clip:local-dir:{folder}"
    size = model_config(f"local-dir:{folder}", "")["vision_cfg"]["image_size"]
    tower, built = build_tower(name, size, None), open_clip.create_model(f"local-dir:{folder}")
    weight = next(iter(built.visual.state_dict().values()))
    assert any(value.shape == weight.shape and torch.equal(value, weight) for value in tower.state_dict().values())
    assert TowerName.parse(name).has_weights and image_settings(name)["mean"] == [0.5, 0.4, 0.3]
    model = MafaOpenClip.from_config({"vit_model": name, "load_finetuned": False, "load_pretrained": False})
    for key, value in built.state_dict().items():
        torch.testing.assert_close(model.clip.state_dict()[key], value)
    with pytest.raises(ValueError, match="brings its own weights; leave it out"):
        TowerName.parse(name, "laion2b")
