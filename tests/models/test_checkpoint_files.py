"""Checkpoint files that are broken or wrapped: named for what they are, or unwrapped."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from lavis_mafa.models.pretrained import weights_file
from lavis_mafa.models.weights import read_state_dict

STATE = {"a.weight": torch.randn(2, 3), "a.bias": torch.randn(3), "steps": torch.tensor(7)}


def save(state: dict[str, Tensor], path: Path) -> Path:
    save_file(state, path) if path.suffix == ".safetensors" else torch.save({"model": state}, path)
    return path


@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_weights_that_are_no_numbers_are_named(name: str, value: float, dtype: torch.dtype, tmp_path: Path) -> None:
    state = STATE | {"b.weight": torch.tensor([[0.0, value], [1.0, 2.0]], dtype=dtype)}
    with pytest.raises(ValueError, match=rf"{name} has NaN or infinity in b\.weight: .*earlier checkpoint"):
        read_state_dict(save(state, tmp_path / name))


def test_masks_and_empty_tensors_are_numbers(tmp_path: Path) -> None:
    state = STATE | {"mask": torch.tensor([0.0, float("-inf")]), "none": torch.zeros(0, 3)}
    assert read_state_dict(save(state, tmp_path / "w.safetensors")).keys() == state.keys()


MISTAKEN = {
    "pointer": (
        "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n",
        "a pointer of git-lfs.*git lfs",
    ),
    "page": ("\n<!DOCTYPE html><html>virus scan warning</html>", "is a web page .*download it again"),
    "page without a type": ("<HTML><body>quota</body></HTML>", "is a web page"),
}


@pytest.mark.parametrize("name", ["w.pth", "w.safetensors", "w.pt", "w.bin"])
@pytest.mark.parametrize("kind", MISTAKEN)
def test_what_a_failed_download_leaves_is_named(name: str, kind: str, tmp_path: Path) -> None:
    text, message = MISTAKEN[kind]
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=rf"{name} .*{message}"):
        read_state_dict(tmp_path / name)


@pytest.mark.parametrize(
    ("prefix", "nested"),
    [
        ("module.", None),
        ("module.", "model"),
        ("_orig_mod.", None),
        ("_orig_mod.module.", "model_state_dict"),
        ("module._orig_mod.", "model"),
        ("model.", "state_dict"),
        ("model._orig_mod.", "state_dict"),
        ("", "model_state_dict"),
    ],
)
def test_prefixes_of_wrappers_are_removed_and_logged(
    prefix: str, nested: str | None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    state: dict[str, Any] = {prefix + key: value for key, value in STATE.items()}
    torch.save({nested: state, "epoch": 3} if nested else state, tmp_path / "w.pth")
    found = read_state_dict(tmp_path / "w.pth")
    assert found.keys() == STATE.keys() and all(torch.equal(found[key], STATE[key]) for key in STATE)
    logged = " ".join(caplog.messages)
    assert all(f"{part}." in logged for part in prefix.split(".")[:-1]) and ("wrapper" in logged) == bool(prefix)


def test_names_that_only_some_keys_have_stay(tmp_path: Path) -> None:
    state = {"module.a": torch.zeros(1), "b": torch.zeros(1), "net.module.c": torch.zeros(1)}
    assert read_state_dict(save(state, tmp_path / "w.pth")).keys() == state.keys()
    models = {"model.a": torch.zeros(1), "model.b": torch.zeros(1)}  # towers of transformers have such names
    assert read_state_dict(save(models, tmp_path / "w.pth")).keys() == models.keys()


def test_a_folder_of_shards_is_read_whole(tmp_path: Path) -> None:
    files = {"a.weight": "model-00001-of-00002.safetensors", "a.bias": "model-00002-of-00002.safetensors"}
    for key, name in files.items():
        save_file({key: STATE[key]}, tmp_path / name)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": files}))
    assert weights_file(str(index)) == weights_file(str(tmp_path)) == index
    found = read_state_dict(index)
    assert found.keys() == files.keys() and all(torch.equal(found[key], STATE[key]) for key in files)
    (tmp_path / files["a.bias"]).unlink()
    with pytest.raises(ValueError, match=f"{files['a.bias']} is missing"):
        read_state_dict(index)
    wrong = ("{}", '{"weight_map": {"a": "../a.safetensors"}}', '{"weight_map": {"a": "/b/a.safetensors", "b": 3}}')
    for text in (*wrong, "[" * 100_000):
        index.write_text(text)
        with pytest.raises(ValueError, match="not a readable index of shards"):
            read_state_dict(index)
