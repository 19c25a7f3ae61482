"""What the YAMLs of stage 2 and of its evaluation say and ask for."""

from __future__ import annotations

import re
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

import lavis_mafa
from tests.jobs.commands import ROOT

EVAL = sorted((ROOT / "projects" / "mafa" / "eval").glob("*.yaml"))
LANGUAGE_MODELS = [
    path
    for path in sorted((ROOT / "projects" / "mafa").rglob("*.yaml"))
    if str(OmegaConf.load(path).get("model", {}).get("arch")).startswith(("mafa_blip2_opt", "mafa_blip2_t5"))
]


def by_name(path: Path) -> str:
    return path.stem


@pytest.mark.parametrize("path", EVAL, ids=by_name)
def test_an_evaluation_names_its_split_and_the_published_figures(path: Path) -> None:
    comments = "\n".join(line for line in path.read_text().splitlines() if line.startswith("#"))
    run = OmegaConf.load(path).run
    assert all(re.search(rf"\b{split}\b", comments) for split in run.test_splits)
    if "o published figure" in comments:
        assert not run.get("expected")
        return
    assert "BLIP-2's paper" in comments and "LAVIS" in comments
    expected = OmegaConf.to_container(run).get("expected", {})
    for figure in expected.values():
        assert all(str(one) in comments for one in (figure.values() if isinstance(figure, dict) else [figure]))
    if not any(name.startswith("LAVIS") for name in expected):
        assert re.search(r"LAVIS (1\.0\.2 )?has (no|this) figure", comments)


@pytest.mark.parametrize("path", EVAL, ids=by_name)
def test_answers_of_ok_vqa_alone_are_lemmatised(path: Path) -> None:
    """As LAVIS' YAMLs have it (apply_lemmatizer)."""
    run = OmegaConf.load(path).run
    if re.match("gqa|vqav2|okvqa", path.stem) and not path.stem.endswith("scenes"):
        assert run.lemmatise == path.stem.startswith("okvqa")
    else:
        assert "lemmatise" not in run


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAVIS_MAFA_DATA", str(ROOT))
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda including_emulation: True)


def precisions(path: Path, *options: str) -> tuple[str, str]:
    """Of the run and of its language model, on a GPU."""
    lavis_mafa.register()
    from lavis_mafa.config.load import load_config
    from lavis_mafa.tasks.stage2 import MafaStage2Task

    config: Any = load_config(Namespace(cfg_path=str(path), options=list(options)))
    MafaStage2Task.setup_task(config)
    return config.run_cfg.precision, config.model_cfg.llm_precision


@pytest.mark.parametrize("path", LANGUAGE_MODELS, ids=by_name)
def test_gradients_pass_the_language_model_in_a_precision_that_keeps_them(path: Path, gpu: None) -> None:
    evaluates = OmegaConf.load(path).run.get("evaluate", False)
    run, language_model = precisions(path)
    assert evaluates or language_model != "fp16" or run == "fp16"
    if "2.7b" in path.stem or "6.7b" in path.stem:
        assert (run, language_model) == ("fp32", "fp16") if evaluates else ("bf16", "bf16")


def test_fp16_takes_a_loss_that_is_scaled(gpu: None) -> None:
    yaml = ROOT / "projects" / "mafa" / "blip2" / "pretrain_stage2_opt_scenes.yaml"
    assert precisions(yaml, "run.precision=fp16") == ("fp16", "fp16")
    assert precisions(yaml, "run.precision=fp16", "model.llm_precision=bf16") == ("fp16", "bf16")
    with pytest.raises(ValueError, match="model.llm_precision is fp16, but run.precision bf16.*: set"):
        precisions(yaml, "run.precision=bf16", "model.llm_precision=fp16")
