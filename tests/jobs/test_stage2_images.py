"""Stage 2 on photographs: what its language model reads, and the whole job of blip2_images.sh on a few of them."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from omegaconf import OmegaConf

import lavis_mafa
from tests.jobs.commands import ROOT, run

SCRIPT = ROOT / "projects" / "language_models" / "flickr8k.py"


@pytest.fixture(scope="module")
def script() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(SCRIPT.parent)  # as Python does for the script that it runs
        return SimpleNamespace(**runpy.run_path(str(SCRIPT)))


@pytest.fixture(scope="module")
def stage1(tmp_path_factory: pytest.TempPathFactory, shared_data: Path) -> Path:
    """A stage 1 as it starts: what it knows does not matter here."""
    lavis_mafa.register()
    from lavis_mafa.models.blip2.stage1 import MafaBlip2
    from lavis_mafa.models.trained import trained_state

    config = OmegaConf.load(MafaBlip2.default_config_path("small")).model
    config.vit_weights = str(shared_data / "weights" / "mobilenet_v2_imagenet.safetensors")
    config.vocab = str(shared_data / "text" / "bert-base-uncased-vocab.txt")
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("stage1") / "model.pth"
    torch.save({"model": trained_state(MafaBlip2.from_config(config))}, path)
    return path


@pytest.fixture(scope="module")
def folder(stage1: Path, tmp_path_factory: pytest.TempPathFactory, shared_data: Path) -> Path:
    """What the job wrote."""
    out = tmp_path_factory.mktemp("images")
    command = ("bash", "run_scripts/mafa/blip2_images.sh", "output/all", str(stage1))
    run(*command, "--smoke", str(out), LAVIS_MAFA_DATA=str(shared_data))
    return out / "output" / "all"


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def test_a_caption_stands_behind_words_of_its_siblings_alone(script: Any) -> None:
    words_of = {
        "a brown dog": "brown dog",
        "the hound runs": "hound runs",
        "an animal in the grass": "animal grass",
        "two pets at play": "two pets play",
        "it is t-shirt weather": "t-shirt weather",
    }
    for seed in range(20):
        text = script.caption_text(list(words_of), np.random.default_rng(seed), blind=0)
        others = {word for caption, words in words_of.items() if caption != text.target for word in words.split()}
        assert len(set(text.phrases)) == 8 and set(text.phrases) <= others


def test_a_question_stands_behind_answers_to_others(script: Any) -> None:
    questions = [("what is red?", ["chair"]), ("what is on the desk?", ["book", "lamp"])]
    for seed in range(20):
        text = script.question_text(questions, np.random.default_rng(seed), blind=0)
        asked = text.given.removeprefix("Question: ").removesuffix(" Answer:")
        ((own, words_of),) = [(question, answers) for question, answers in questions if question == asked]
        assert text.target in words_of
        assert set(text.phrases) == {answer for question, answers in questions if question != own for answer in answers}
    assert script.question_text(questions[:1], np.random.default_rng(0), blind=0).phrases == []


def test_half_of_the_questions_are_blind_and_an_eighth_of_the_captions(script: Any) -> None:
    rng = np.random.default_rng(0)
    captions = [script.caption_text(["a dog", "a cat"], rng) for _ in range(400)]
    questions = [script.question_text([("a?", ["b"]), ("c?", ["d"])], rng) for _ in range(400)]
    assert np.mean([not text.phrases for text in captions]) == pytest.approx(0.125, abs=0.05)
    assert np.mean([not text.phrases for text in questions]) == pytest.approx(0.5, abs=0.08)


def test_only_training_splits_are_read(script: Any, shared_data: Path) -> None:
    learned, held_out = script.read(shared_data).parts()
    assert len(learned.captions) + len(held_out.captions) == 6000 and len(held_out.captions) == 300
    assert sum(map(len, learned.questions + held_out.questions)) == 6795


def test_the_language_model_is_one_of_lavis(folder: Path) -> None:
    lavis_mafa.register()
    from lavis.models.blip2_models.modeling_opt import OPTForCausalLM

    model = OPTForCausalLM.from_pretrained(folder / "opt")
    assert model.config.hidden_size == 192 and model.config.vocab_size == 3000


def test_stage_2_starts_from_stage_1(folder: Path, stage1: Path) -> None:
    origin = read(folder / "stage2" / "results.json")["weights"]
    assert origin["Qformer"].endswith(f"from {stage1}") and origin["opt_proj"] == "initialised"
    assert origin["opt_model"] == f"own file {folder / 'opt'}" and "mobilenet" in origin["visual_encoder"]


def test_captions_are_judged_by_a_tokenizer_that_is_named(folder: Path) -> None:
    found = read(folder / "eval" / "caption_flickr8k" / "results.json")["answers"]["test"]
    assert found["images"] == 96 and found["tokenizer"] and found["without_image"]["CIDEr"] >= 0
    assert all(found[name] >= 0 for name in ("Bleu_4", "ROUGE_L", "CIDEr"))


def test_a_hit_on_any_answer_counts(folder: Path) -> None:
    found = read(folder / "eval" / "daquar" / "results.json")["answers"]["test"]
    table = pd.read_parquet(folder / "eval" / "daquar" / "predictions_test.parquet")
    assert found["questions"] == len(table) == 96 and set(table["verdict"]) <= {0.0, 1.0}
    right = [found["majority"]["answer"] in answers for answers in table["ground_truth"]]
    assert found["majority"]["all"] == pytest.approx(100 * np.mean(right))


def test_the_table_has_the_baselines(folder: Path) -> None:
    table = pd.read_csv(folder / "answers.csv", index_col=0)
    assert list(table.index) == ["image_text, test: CIDEr", "image_questions, test: accuracy"]
    assert list(table) == ["this checkpoint", "without the image", "one answer to all", "untrained Q-Former"]
    assert table.drop(columns="one answer to all").notna().all(axis=None)
