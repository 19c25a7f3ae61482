"""The ALBEF path as whole commands, shortened, in this process: retrieval, VQA, NLVR2, LAVIS' own pre-training."""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from omegaconf import OmegaConf

import lavis_mafa

ALBEF = Path(__file__).resolve().parents[2] / "projects" / "mafa" / "albef"
SHORT = ("run.max_epoch=1", "run.batch_size_eval=8")
QUEUE = "model.queue_size=32"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A mafa_albef as it starts: what it knows does not matter here."""
    lavis_mafa.register()
    from lavis_mafa.models.albef.pretrain import MafaAlbef

    torch.manual_seed(0)
    model = MafaAlbef.from_config(OmegaConf.load(MafaAlbef.default_config_path("scenes")).model)
    path = tmp_path_factory.mktemp("albef") / "model.pth"
    torch.save({"model": model.state_dict()}, path)
    return path


def run(name: str, folder: Path, *options: str) -> dict[str, Any]:
    """What results.json holds after the shortened run of a YAML."""
    lavis_mafa.register()
    from lavis_mafa.config.load import load_config
    from lavis_mafa.config.values import refuse_missing
    from lavis_mafa.train import _run

    cfg = load_config(Namespace(cfg_path=str(ALBEF / f"{name}.yaml"), options=[*SHORT, *options], smoke=folder))
    cfg.run_cfg.evaluate = "run.evaluate=true" in options
    refuse_missing(cfg.config)
    _run(cfg)
    return json.loads((Path(cfg.run_cfg.output_dir) / "results.json").read_text())


def test_vqa(checkpoint: Path, tmp_path: Path) -> None:
    found = run("vqa_scenes", tmp_path, f"model.pretrained={checkpoint}")
    answers = found["answers"]["test"]
    assert answers["questions"] == 192 and 0 <= answers["all"] <= 100
    assert found["weights"]["text_encoder_m"] == "a copy"
    out = tmp_path / "output" / "mafa" / "albef_vqa_scenes"
    table = pd.read_parquet(out / "predictions_test.parquet")
    assert len(table) == 192 and table["verdict"].mean() == pytest.approx(answers["all"] / 100)
    # the weights that it wrote answer the same
    again = (f"model.finetuned={out}/model.safetensors", "model.load_finetuned=true", "run.output_dir=output/again")
    evaluated = run("vqa_scenes", tmp_path, *again, "run.evaluate=true")
    assert evaluated["answers"]["test"] == answers


def test_nlvr_after_text_assignment(checkpoint: Path, tmp_path: Path) -> None:
    run("assign_text_scenes", tmp_path, f"model.pretrained={checkpoint}")
    assigned = tmp_path / "output" / "mafa" / "albef_assign_scenes" / "model.safetensors"
    found = run("nlvr_scenes", tmp_path, f"model.pretrained={assigned}")
    assert found["answers"]["test"]["questions"] == 96
    assert found["weights"]["cls_head"] == "initialised" and str(assigned) in found["weights"]["text_encoder"]


def test_retrieval_and_that_it_is_a_con_d(checkpoint: Path, tmp_path: Path) -> None:
    from lavis_mafa.scorers.con_d import build_con_d

    found = run("finetune_retrieval_scenes", tmp_path, f"model.pretrained={checkpoint}", QUEUE)
    assert {"itc", "itm", "at_r"} <= set(found["retrieval"])
    trained = tmp_path / "output" / "mafa" / "albef_retrieval_scenes" / "model.safetensors"
    con_d = {"arch": "mafa_albef", "model_type": "scenes", "load_finetuned": True, "finetuned": str(trained)}
    scorer = build_con_d(con_d, torch.device("cpu"))
    batch = {"judge_image": torch.randn(2, 3, 48, 48), "caption": ["a red circle", "a blue ring"]}
    assert scorer.score(batch, torch.tensor([0, 1]), torch.tensor([1, 0])).shape == (2,)


def test_albef_as_it_was(tmp_path: Path) -> None:
    options = ("run.stop_epoch=null", "run.batch_size_train=32")
    found = run("albef_scenes", tmp_path, *options, QUEUE)
    steps = (tmp_path / "output" / "mafa" / "albef_lavis_scenes" / "steps.jsonl").read_text().splitlines()
    assert {"loss_itc", "loss_itm", "loss_mlm"} <= set(json.loads(steps[0]))
    assert "itm" in found["retrieval"]


def test_momentum_targets_resume_with_their_teacher(tmp_path: Path) -> None:
    """Two epochs in one go, or one and then another: the same weights."""
    momentum = ("model.mafa={preset: none, targets: momentum}", "run.con_d=null", "run.k_test=0", "run.test_splits=[]")
    ends = []
    for name, stops in (("whole", (2,)), ("twice", (1, 2))):
        for stop in stops:
            options = (*momentum, "run.max_epoch=2", f"run.stop_epoch={stop}", f"run.output_dir={tmp_path / name}")
            run(
                "pretrain_stage_scenes",
                tmp_path,
                *options,
                "run.valid_splits=[]",
                "run.cache_tokens=false",
            )
        content = torch.load(tmp_path / name / "checkpoint_e0002_s0000000.pth", weights_only=True)
        ends.append(content)
    assert set(content["teacher"]) == set(content["model"])
    for part in ("model", "teacher"):
        for key, value in ends[0][part].items():
            assert torch.equal(value, ends[1][part][key]), f"{part}.{key}"
