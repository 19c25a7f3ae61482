"""A training's folder gives its model back: config.yaml beside the weights, read from anywhere."""

from __future__ import annotations

from pathlib import Path

import pytest
import safetensors.torch
import torch
from lavis.common.registry import registry
from omegaconf import OmegaConf
from PIL import Image

import lavis_mafa
from lavis_mafa.models.saved import CONFIG, WEIGHTS, write_config
from lavis_mafa.models.trained import trained_state

lavis_mafa.register()
PROCESSORS = {
    "vis_processor": {"eval": {"name": "blip_image_eval", "image_size": 48, "mean": 0.5, "std": 0.5}},
    "text_processor": {"eval": {"name": "blip_caption"}},
}


def saved(folder: Path, arch: str, **changes: object) -> dict[str, torch.Tensor]:
    """Leaves a model of scenes as a training does; returns its whole state."""
    model_cls = registry.get_model_class(arch)
    kind = "scenes" if "scenes" in model_cls.PRETRAINED_MODEL_CONFIG_DICT else "pretrain"
    packaged = OmegaConf.load(model_cls.default_config_path(kind)).model
    cfg = OmegaConf.merge(
        packaged, {"arch": arch, "model_type": kind, "load_pretrained": False, "load_finetuned": False, **changes}
    )
    model = model_cls.from_config(cfg).float()
    safetensors.torch.save_file({key: value.clone() for key, value in trained_state(model).items()}, folder / WEIGHTS)
    write_config(folder, cfg, OmegaConf.create(PROCESSORS))
    return dict(model.state_dict())


@pytest.mark.parametrize("arch", ["mafa_blip2", "mafa_albef", "mafa_blip2_opt", "mafa_albef_vqa"])
def test_the_model_comes_back(arch: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = saved(tmp_path, arch)
    monkeypatch.chdir("/")
    model, vis, text = lavis_mafa.load(tmp_path)
    assert not model.training and type(model) is registry.get_model_class(arch)
    assert all(torch.equal(value, state[key].float()) for key, value in model.state_dict().items())
    assert vis["eval"](Image.new("RGB", (60, 50))).shape == (3, 48, 48)
    assert text["eval"]("A Red circle!") == "a red circle"


def test_a_relative_vocabulary_is_found_from_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = Path(lavis_mafa.__file__).parent / "data" / "scenes" / "vocab.txt"
    (tmp_path / "words").mkdir()
    (tmp_path / "words" / "vocab.txt").write_text(words.read_text())
    monkeypatch.chdir(tmp_path)
    saved(tmp_path, "mafa_albef", vocab="words/vocab.txt")
    monkeypatch.chdir("/")
    assert len(lavis_mafa.load(tmp_path).model.tokenizer) >= len(words.read_text().split())


def test_what_is_no_training_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="config.yaml is missing. Give the run.output_dir of a training"):
        lavis_mafa.load(tmp_path)
    (tmp_path / CONFIG).write_text("model: {arch: [")
    with pytest.raises(ValueError, match="config.yaml is damaged"):
        lavis_mafa.load(tmp_path)
    (tmp_path / CONFIG).write_text("model: {arch: mafa_albef}")
    with pytest.raises(ValueError, match="config.yaml is not a model file of lavis_mafa"):
        lavis_mafa.load(tmp_path)
    saved(tmp_path, "mafa_albef")
    (tmp_path / WEIGHTS).write_bytes((tmp_path / WEIGHTS).read_bytes()[:1000])
    with pytest.raises(ValueError, match="model.safetensors is damaged"):
        lavis_mafa.load(tmp_path)
