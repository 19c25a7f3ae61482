"""LAVIS on today's libraries: what is given back, that nothing else is touched, and that it comes first."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from lavis.models import med
from lavis.models.blip2_models import Qformer
from transformers import BertConfig, BertForMaskedLM

from tests.models.tiny import MED_ALBEF, QFORMER

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "lavis_mafa"
BY_COMMANDS = {"train.py", "convert.py"}  # inside functions, after register(), or for types alone


def run_python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=120)


def imports(path: Path) -> set[str]:
    """Whatever the file imports, anywhere in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names.add(str(node.module))
    return names


def test_it_comes_before_lavis_whichever_module_is_imported() -> None:
    """The __init__ of a package runs before its modules; in a room that also serves without LAVIS each module does."""
    ours = [path for path in PACKAGE.rglob("*.py") if any(name.split(".")[0] == "lavis" for name in imports(path))]
    assert len(ours) > 30
    for path in ours:
        room = PACKAGE / path.relative_to(PACKAGE).parts[0]
        first = room / "__init__.py" if room.is_dir() else path
        assert "lavis_mafa.compat" in imports(first) | imports(path) or path.name in BY_COMMANDS, path


def test_a_module_can_be_imported_alone() -> None:
    result = run_python("import lavis_mafa.processors.albef")
    assert result.returncode == 0, result.stderr
    assert "Warning" not in result.stderr


def test_nothing_is_touched_that_the_libraries_still_have() -> None:
    result = run_python("""
import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerBase, modeling_utils
owners = (np, PreTrainedModel, PreTrainedTokenizerBase, modeling_utils)
before = [dict(vars(owner)) for owner in owners]
import lavis_mafa.compat as compat
for owner, had in zip(owners, before):
    changed = {name for name, value in had.items() if vars(owner)[name] is not value}
    assert not changed, (owner, changed)
for owner, name, stand_in, version in compat.GIVEN_BACK:
    had = before[owners.index(owner)]
    assert compat._has(owner, name) and (name in had or vars(owner).get(name, stand_in) is stand_in)
    assert version.startswith(("transformers ", "NumPy "))
""")
    assert result.returncode == 0, result.stderr


def test_without_lavis_one_line_says_how_to_install_it() -> None:
    result = run_python("""
import importlib.util
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *more: None if name == "lavis" else find(name, *more)
import lavis_mafa
lavis_mafa.register()
""")
    assert "LAVIS is missing in " in result.stderr.splitlines()[-1]
    assert ": pip install --no-deps salesforce-lavis==1.0.2" in result.stderr.splitlines()[-1]


def test_another_lavis_in_the_current_folder_is_named(tmp_path: Path) -> None:
    """LAVIS' own repository, where `python -m` finds its folder before the installed package."""
    (tmp_path / "lavis").mkdir()
    (tmp_path / "lavis" / "__init__.py").write_text("import torchaudio_that_nobody_has\n")
    command = [sys.executable, "-m", "lavis_mafa.train", "--cfg-path", "projects/mafa/albef/albef_scenes.yaml"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    (line,) = done.stderr.splitlines()
    assert done.returncode == 1 and line.startswith(f"error: {tmp_path / 'lavis' / '__init__.py'} shadows LAVIS")
    assert "lavis-mafa" in line


@pytest.mark.skipif(find_spec("decord") is not None, reason="decord is installed")
def test_what_is_absent_is_named_when_it_is_used() -> None:
    from lavis.datasets import data_utils

    assert "decord" not in sys.modules
    with pytest.raises(ModuleNotFoundError, match="pip install decord"):
        data_utils.load_video("x.mp4")


BERTS: dict[str, tuple[Any, dict[str, Any]]] = {
    "albef": (med.BertForMaskedLM, MED_ALBEF),
    "q-former": (Qformer.BertLMHeadModel, QFORMER | {"query_length": 4, "add_cross_attention": False}),
}


@pytest.mark.parametrize("kind", BERTS)
def test_a_bert_file_is_read_whole(kind: str, tmp_path: Path) -> None:
    """Today's files hold neither the positions nor what is tied, and some are in half precision."""
    network, sizes = BERTS[kind]
    torch.manual_seed(0)
    source = BertForMaskedLM(BertConfig(**QFORMER | {"vocab_size": sizes["vocab_size"]}))
    torch.nn.init.normal_(source.cls.predictions.bias)
    source.save_pretrained(tmp_path)
    found = network.from_pretrained(tmp_path, config=BertConfig(**sizes))
    state = found.state_dict()
    read = {key: value for key, value in source.state_dict().items() if "token_type" not in key}
    assert len(read) > 60
    for key, value in read.items():
        assert torch.equal(state[key], value), key
    assert state["bert.embeddings.position_ids"].tolist() == [list(range(64))]


@pytest.mark.parametrize("kind", BERTS)
def test_words_and_bias_are_tied_before_and_after_a_word_is_added(kind: str) -> None:
    network, sizes = BERTS[kind]
    model = network(BertConfig(**sizes))
    before = model.bert.embeddings.word_embeddings.weight.clone()
    for words in (len(before), len(before) + 1):
        model.resize_token_embeddings(words)
        head = model.cls.predictions
        assert head.decoder.weight is model.bert.embeddings.word_embeddings.weight
        assert head.decoder.bias is head.bias and head.bias.shape == (words,)
        assert torch.equal(head.decoder.weight[: len(before)], before)
    assert 0.005 < head.decoder.weight[-1].std() < 0.05  # as initialised, not drawn from the others


def test_blip_finds_its_marks() -> None:
    from lavis_mafa.models.text import load_tokenizer
    from tests.models.tiny import VOCAB

    tokenizer = load_tokenizer(str(VOCAB))
    words = len(tokenizer)
    tokenizer.add_special_tokens({"additional_special_tokens": ["[ENC]"]})
    assert tokenizer.additional_special_tokens_ids == [words]


def test_a_seed_draws_the_initial_weights_that_it_drew_on_transformers_4_26() -> None:
    """Measured there, with torch 2.14.1: an inner network is drawn twice, part by part."""
    from lavis.models.blip2_models.Qformer import BertLMHeadModel
    from transformers import BertConfig

    torch.manual_seed(7)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    config = BertConfig(vocab_size=20, max_position_embeddings=8, is_decoder=True, add_cross_attention=True, **sizes)
    config.cross_attention_freq, config.query_length, config.encoder_width = 1, 2, 16
    model = BertLMHeadModel(config)
    drawn = model.bert.encoder.layer[1].output.dense.weight.flatten()[:3]
    torch.testing.assert_close(drawn, torch.tensor([0.0090255, 0.0217455, -0.0244877]), atol=1e-6, rtol=0)
    assert torch.rand(1).item() == pytest.approx(0.428399, abs=1e-6)
