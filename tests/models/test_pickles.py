"""Checkpoints of others run no code: every loader, LAVIS', transformers' and open_clip's too, reads tensors alone."""

import ast
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import lavis_mafa.compat  # noqa: F401  before the first `lavis` import

import open_clip
import pytest
import torch
from lavis.models.albef_models import AlbefBase
from lavis.models.albef_models.albef_vqa import AlbefVQA
from lavis.models.base_model import BaseModel
from lavis.models.blip2_models.blip2 import Blip2Base
from lavis.models.blip_models.blip import BlipBase
from lavis.models.blip_models.blip_nlvr import BlipNLVR
from open_clip_train.file_utils import pt_load
from torch import nn
from transformers import BertConfig, BertModel

from lavis_mafa.models.bert import token_types
from lavis_mafa.models.blip2.language_model import load_language_model
from lavis_mafa.models.towers.hf import build_hf_tower
from lavis_mafa.models.weights import read_state_dict, read_torch
from lavis_mafa.runners import checkpoint
from tests.models.tiny_llm import language_model

ROOT = Path(__file__).resolve().parents[2]
BETWEEN_PROCESSES = ("ray_engine.py",)  # pickles of one job, on its own cluster


class Payload:
    """Leaves a file behind where it is unpickled."""

    def __init__(self, left: Path) -> None:
        self.left = left

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.left,)


def hostile(path: Path) -> Path:
    """A checkpoint that runs code where it is read as torch.load did before 2.6; returns what the code leaves."""
    left = path.with_name("left")
    torch.save({"model": Payload(left)}, path)
    torch.load(path, weights_only=False)
    left.unlink()  # so the payload works
    return left


def bert_folder(folder: Path) -> Path:
    """A BERT whose weights are a torch file that holds code."""
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    BertModel(BertConfig(vocab_size=32, **sizes)).config.save_pretrained(folder)
    return folder


def language_model_of(path: Path) -> Any:
    language_model("opt", path.parent)
    for file in path.parent.glob("*.safetensors"):
        file.unlink()
    return load_language_model(str(path.parent), "llm", torch.float32, {})


LOADERS: dict[str, Callable[[Path], object]] = {
    "ours": read_torch,
    "our state dicts": read_state_dict,
    "our checkpoints": lambda path: checkpoint.load(path, {}, lambda content: None),
    "LAVIS' base": lambda path: BaseModel.load_checkpoint(nn.Linear(1, 1), str(path)),
    "LAVIS' ALBEF": lambda path: AlbefBase.load_from_pretrained(nn.Linear(1, 1), str(path)),
    "LAVIS' ALBEF for VQA": lambda path: AlbefVQA.load_from_pretrained(nn.Linear(1, 1), str(path)),
    "LAVIS' BLIP": lambda path: BlipBase.load_from_pretrained(nn.Linear(1, 1), str(path)),
    "LAVIS' BLIP for NLVR": lambda path: BlipNLVR.load_from_pretrained(nn.Linear(1, 1), str(path)),
    "LAVIS' BLIP-2": lambda path: Blip2Base.load_from_pretrained(nn.Linear(1, 1), str(path)),
    "open_clip's models": lambda path: open_clip.create_model("RN50", str(path)),
    "open_clip's training": lambda path: pt_load(str(path), map_location="cpu"),
    "BERT of transformers": lambda path: token_types(str(bert_folder(path.parent))),
    "a tower of transformers": lambda path: build_hf_tower(f"hf:{bert_folder(path.parent)}", 32),
    "a language model": language_model_of,
}


@pytest.mark.parametrize("loader", LOADERS)
def test_a_checkpoint_runs_no_code(loader: str, tmp_path: Path) -> None:
    path = tmp_path / "pytorch_model.bin"
    left, load, asked = hostile(path), torch.load, []

    def watched(*args: Any, **given: Any) -> Any:
        asked.append(given.get("weights_only"))
        return load(*args, **given)

    with mock.patch.object(torch, "load", watched), pytest.raises((pickle.UnpicklingError, ValueError, OSError)):
        LOADERS[loader](path)
    assert not left.exists()
    assert asked and False not in asked  # None: torch's default, which is True since 2.6


def test_an_old_setting_that_lets_torch_run_code_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from lavis_mafa.doctor import judge_pickles

    monkeypatch.delenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", raising=False)
    assert not list(judge_pickles())
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    (finding,) = judge_pickles()
    assert finding.blocks and "runs the code" in finding.message and "unset" in finding.remedy


@pytest.mark.parametrize("kind", ["model", "language model"])
def test_a_model_that_brings_code_is_refused_without_a_question(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("builtins.input", lambda *args: pytest.fail("a question was asked"))
    left = tmp_path / "left"
    (tmp_path / "own.py").write_text(f"open({str(left)!r}, 'w')\n")
    auto_map = {"AutoConfig": "own.OwnConfig", "AutoModel": "own.OwnModel"}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "own", "auto_map": auto_map}))
    with pytest.raises(ValueError, match="trust_remote_code"):
        if kind == "model":
            build_hf_tower(f"hf:{tmp_path}", 32)
        else:
            load_language_model(str(tmp_path), "llm", torch.float32, {})
    assert not left.exists()


def is_unsafe(call: ast.AST) -> bool:
    if not isinstance(call, ast.Call):
        return False
    name, given = ast.unparse(call.func), {one.arg: ast.unparse(one.value) for one in call.keywords}
    if name == "torch.load":
        return given.get("weights_only") != "True"
    if name.endswith(".from_pretrained") and name.partition(".")[0].lower().startswith(("auto", "kind")):
        return given.get("trust_remote_code") != "False"
    return name in ("pickle.load", "pickle.loads", "torch.jit.load") or given.get("allow_pickle") == "True"


def test_no_module_loads_more_than_tensors() -> None:
    found = [
        f"{path.name}: {ast.unparse(node)}"
        for path in (ROOT / "lavis_mafa").rglob("*.py")
        if path.name not in BETWEEN_PROCESSES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if is_unsafe(node)
    ]
    assert found == []
