"""Stage 2 and its evaluation on scenes, run as a user runs them, shortened."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from tests.jobs.commands import ROOT, environment, rows, run, train

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
GQA = "projects/mafa/eval/gqa_scenes.yaml"
SMALL = ["datasets.scenes_gqa.splits.test.n=20", "run.num_beams=1", "run.batch_size_eval=8", "run.num_workers=0"]


def evaluate(config: str, *options: str) -> list[str]:
    return [sys.executable, "-m", "lavis_mafa.evaluate", "--cfg-path", config, "--options", *options]


def read(path: Path) -> Any:
    return json.loads(path.read_text())


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder of a whole short job, and what it printed."""
    folder = tmp_path_factory.mktemp("all")
    printed = run("bash", "run_scripts/mafa/blip2_all.sh", "--smoke", str(folder))
    return folder / "output" / "mafa" / "blip2_all", printed


def test_one_table_at_the_end_has_all_three_baselines(everything: tuple[Path, str]) -> None:
    folder, printed = everything
    table = pd.read_csv(folder / "zero_shot_opt.csv", index_col=0)
    assert list(table.index) == ["scenes_gqa, test: accuracy", "scenes_okvqa, test: accuracy", "scenes, test: CIDEr"]
    assert list(table) == ["this checkpoint", "without the image", "one answer to all", "untrained Q-Former"]
    assert table.iloc[:2].notna().all(axis=None) and printed.rstrip().splitlines()[-1].startswith("scenes, test: CIDEr")


def test_stage_2_says_what_came_from_where(everything: tuple[Path, str]) -> None:
    folder, _ = everything
    origin = read(folder / "stage2_opt" / "results.json")["weights"]
    assert origin["Qformer"].endswith(f"from {folder / 'stage1' / 'model.safetensors'}")
    assert origin["opt_proj"] == "initialised" and origin["opt_model"].startswith("own file")
    losses = [row["loss_lm"] for row in rows(folder / "stage2_opt" / "steps.jsonl")]
    assert len(losses) == 12 and losses[-1] < losses[0]


def test_results_and_every_prediction_are_written(everything: tuple[Path, str]) -> None:
    folder = everything[0] / "eval_opt"
    results = read(folder / "gqa_scenes" / "results.json")
    answers = results["answers"]["test"]
    assert answers["questions"] == 3 * 96 and set(answers["by_answer_type"]) == {"yes/no", "number", "other"}
    assert {"query", "verify"} <= set(answers["by_question_type"]) and answers["majority"]["answer"]
    assert answers["lemmatised"] or "spacy download" in answers["missing"]["lemmatised"]
    assert results["checkpoint"]["hash"] and "transformers" in results["versions"]
    table = pd.read_parquet(folder / "gqa_scenes" / "predictions_test.parquet")
    assert {"question", "answer", "ground_truth", "verdict", "question_type", "image"} <= set(table)
    assert len(table) == 288 and table["question_id"].is_unique
    assert 100 * table["verdict"].astype(float).mean() == pytest.approx(answers["all"])
    assert len(read(folder / "gqa_scenes" / "test_leaderboard.json")) == 288
    captions = read(folder / "caption_scenes" / "results.json")["answers"]["test"]
    assert captions["CIDEr"] >= 0 and captions["tokenizer"]
    table = pd.read_parquet(folder / "caption_scenes" / "predictions_test.parquet")
    assert table["question"].eq("").all() and 100 * table["verdict"].mean() == pytest.approx(captions["all"])
    references = read(folder / "caption_scenes" / "test_references.json")
    assert len(references["images"]) == 96 and len(references["annotations"]) == 480


def test_all_evaluations_of_both_stages_end_in_one_table(everything: tuple[Path, str], tmp_path: Path) -> None:
    stage1, stage2 = (str(everything[0] / name / "model.safetensors") for name in ("stage1", "stage2_opt"))
    options = ("run.num_beams=1", "run.max_len=3", "run.without_image=false", "--smoke", str(tmp_path))
    printed = run(
        "bash", "run_scripts/mafa/eval_zeroshot.sh", stage2, "scenes", stage1, *options, LAVIS_MAFA_EVAL=str(tmp_path)
    )
    rows = [line.split("  ")[0] for line in printed.rstrip().splitlines()[-5:]]
    retrieval = [f"retrieval_scenes: {way} R@1 (ITM)" for way in ("image", "text")]
    assert rows == ["scenes_gqa, test: accuracy", "scenes_okvqa, test: accuracy", "scenes, test: CIDEr", *retrieval]
    checkpoints = [read(tmp_path / name / "results.json")["checkpoint"] for name in ("gqa_scenes", "retrieval_scenes")]
    trained = [read(everything[0] / name / "results.json")["checkpoint"] for name in ("stage2_opt", "stage1")]
    assert checkpoints == trained and [one["path"] for one in trained] == [stage2, stage1]


def test_t5_takes_its_turn(everything: tuple[Path, str], tmp_path: Path) -> None:
    stage1 = everything[0] / "stage1" / "model.safetensors"
    script = "run_scripts/mafa/pretrain_blip2_stage2.sh"
    yaml = "projects/mafa/blip2/pretrain_stage2_t5_scenes.yaml"
    run("bash", script, "--cfg-path", yaml, "--options", f"model.pretrained={stage1}", "--smoke", str(tmp_path))
    checkpoint = tmp_path / "output" / "mafa" / "blip2_stage2_t5_scenes" / "model.safetensors"
    options = [
        f"model.pretrained={checkpoint}",
        "model.arch=mafa_blip2_t5",
        f"run.output_dir={tmp_path / 'gqa'}",
        *SMALL,
    ]
    run(*evaluate(GQA, *options))
    assert read(tmp_path / "gqa" / "results.json")["answers"]["test"]["questions"] == 60


def test_fine_tuning_for_captions_trains_the_tower_and_evaluates_what_it_trained(tmp_path: Path) -> None:
    """As caption_coco_ft_opt2.7b.yaml does, on scenes."""
    yaml, out = "projects/mafa/eval/caption_scenes.yaml", tmp_path / "trained"
    small = ["datasets.scenes.splits.test.n=8", "run.max_len=3", "run.num_beams=1", "run.without_image=false"]
    model = ["model.freeze_vit=false", "model.prompt=a photo of", "run.prompt=a photo of"]
    training = [
        *("run.evaluate=false", "model.load_pretrained=false", "run.max_epoch=2", "run.init_lr=1e-3"),
        *("datasets.scenes.splits.train.n=64", "run.batch_size_train=16", "run.warmup_steps=2"),
        "datasets.scenes.text_processor.train={name: blip_caption, prompt: 'a photo of '}",
    ]
    run(*train(yaml, *small, *model, *training, f"run.output_dir={out}"))
    steps = rows(out / "steps.jsonl")
    assert [row["epoch"] for row in steps] == [0] * 4 + [1] * 4
    assert sum(row["loss_lm"] for row in steps[4:]) < sum(row["loss_lm"] for row in steps[:4])
    results, weights = read(out / "results.json"), load_file(out / "model.safetensors")
    tower = load_file(ROOT / "lavis_mafa" / "assets" / "scenes_tower.safetensors")
    moved = [key for key in tower if not torch.equal(tower[key], weights[f"visual_encoder.{key}"])]
    assert moved and not any(key.startswith("opt_model.") for key in weights)
    table = pd.read_parquet(out / "predictions_test.parquet")
    assert len(table) == 8 and table["question"].eq("a photo of").all()
    given = ["model.load_finetuned=true", f"model.finetuned={out / 'model.safetensors'}"]
    run(*evaluate(yaml, *small, *model, *given, f"run.output_dir={tmp_path / 'again'}"))
    again = read(tmp_path / "again" / "results.json")
    assert again["checkpoint"] == results["checkpoint"] and again["answers"] == results["answers"]
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "again" / "predictions_test.parquet"), table)


def test_two_processes_ask_every_question_once(everything: tuple[Path, str], tmp_path: Path) -> None:
    checkpoint = everything[0] / "stage2_opt" / "model.safetensors"
    tables = []
    for name, start in (("alone", [sys.executable]), ("two", TORCHRUN)):
        options = [f"model.pretrained={checkpoint}", f"run.output_dir={tmp_path / name}", *SMALL]
        run(*start, *evaluate(GQA, *options)[1:])
        tables.append(pd.read_parquet(tmp_path / name / "predictions_test.parquet"))
    assert len(list((tmp_path / "two" / "result").rglob("test_answers_rank*.jsonl"))) == 2
    pd.testing.assert_frame_equal(*tables)


def test_a_run_that_dies_in_evaluation_goes_on_from_there(everything: tuple[Path, str], tmp_path: Path) -> None:
    checkpoint = everything[0] / "stage2_opt" / "model.safetensors"
    options = [f"model.pretrained={checkpoint}", f"run.output_dir={tmp_path}", *SMALL, "run.batch_size_eval=1"]
    command = evaluate(GQA, *options)
    with subprocess.Popen(command, cwd=ROOT, env=environment(), stdout=-3, stderr=-3) as process:
        while process.poll() is None and _lines(tmp_path) < 3:
            time.sleep(0.01)
        process.kill()
    before = _lines(tmp_path)
    assert not (tmp_path / "results.json").exists(), "the run was over before it was killed"
    run(*command)
    lines = next((tmp_path / "result").rglob("test_answers_rank0.jsonl")).read_text().splitlines()[1:]
    assert len(lines) == 60 and before > 1
    assert len({json.loads(line)[0] for line in lines}) == 60
    run(*command)  # nothing is left to ask
    assert _lines(tmp_path) == 61


def _lines(folder: Path) -> int:
    return sum(path.read_text().count("\n") for path in folder.rglob("test_answers_rank0.jsonl"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["model.opt_model=./no/such"], "no folder at ./no/such"),
        (["model.llm_precision=int8"], "model.llm_precision is 'int8'"),
        (
            ["model.arch=mafa_blip2"],
            "model.arch is mafa_blip2; it must be mafa_blip2_opt, mafa_blip2_t5 or",
        ),
        (["run.sampling=grit"], "run.sampling is 'grit': stage2_runner takes random"),
        (
            ["datasets.scenes_gqa.splits.test={n: 3, sed: 1, questions_a_scene: 1}"],
            "needs n, seed and questions_a_scene",
        ),
    ],
)
def test_what_is_wrong_is_reported(options: list[str], message: str, tmp_path: Path) -> None:
    command = evaluate(GQA, "model.load_pretrained=false", "model.pretrained=", f"run.output_dir={tmp_path}", *options)
    done = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True)
    assert done.returncode != 0 and message in done.stderr
