"""Predictions on disk: nothing is lost or doubled, whatever killed the run."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from lavis_mafa.evaluation.predictions import Predictions, merged
from lavis_mafa.models.trained import weights_hash
from lavis_mafa.runners.answer_evaluation import frozen_hash

ABOUT = {"weights": "abc", "prompt": "Question: {} Answer:"}


def test_two_ranks_are_merged_and_every_item_is_there_once(tmp_path: Path) -> None:
    Predictions(tmp_path, "test", 0, ABOUT).append({1: "red", 3: "größer"})
    Predictions(tmp_path, "test", 1, ABOUT).append({2: "two\nlines", 3: "again"})
    assert merged(tmp_path, "test", ABOUT) == {1: "red", 2: "two\nlines", 3: "again"}
    assert merged(tmp_path, "val", ABOUT) == {}


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\x85", "\x0b", "\x1c"])
def test_a_separator_of_lines_in_an_answer_ends_no_line(tmp_path: Path, separator: str) -> None:
    predicted = {1: f"red{separator}blue", 2: "green"}
    Predictions(tmp_path, "test", 0, ABOUT).append(predicted)
    assert Predictions(tmp_path, "test", 0, ABOUT).done == merged(tmp_path, "test", ABOUT) == predicted


@pytest.mark.parametrize("torn", ['[2, "blu', "[2", '[2, "blue"]', "\n", ""])
def test_a_killed_run_goes_on_from_the_last_whole_line(tmp_path: Path, torn: str) -> None:
    Predictions(tmp_path, "test", 0, ABOUT).append({1: "red"})
    with open(tmp_path / "test_rank0.jsonl", "a") as file:
        file.write(torn)
    again = Predictions(tmp_path, "test", 0, ABOUT)
    assert again.done == {1: "red"}
    again.append({2: "blue"})
    assert merged(tmp_path, "test", ABOUT) == {1: "red", 2: "blue"}


def test_a_torn_header_is_a_fresh_start(tmp_path: Path) -> None:
    (tmp_path / "test_rank0.jsonl").write_text('{"weights": "a')
    store = Predictions(tmp_path, "test", 0, ABOUT)
    store.append({5: "x"})
    assert merged(tmp_path, "test", ABOUT) == {5: "x"}


def test_predictions_about_something_else_are_reported(tmp_path: Path) -> None:
    Predictions(tmp_path, "test", 0, ABOUT).append({1: "red"})
    with pytest.raises(ValueError, match=r"prompt is 'Question: {} Answer:', expected '{}'\. Remove it"):
        Predictions(tmp_path, "test", 0, {**ABOUT, "prompt": "{}"})


def test_another_language_model_is_something_else() -> None:
    """No checkpoint holds it, so that the hash of the checkpoint stays; but its answers differ."""
    torch.manual_seed(0)
    network = nn.ModuleDict({"opt_proj": nn.Linear(3, 2), "opt_model": nn.Linear(2, 100)})
    network.parts_of_own_files = ("opt_model.",)
    hashes = weights_hash(network), frozen_hash(network)
    nn.init.normal_(network["opt_model"].weight)
    assert weights_hash(network) == hashes[0] and frozen_hash(network) != hashes[1]
    hashes = weights_hash(network), frozen_hash(network)
    nn.init.normal_(network["opt_proj"].weight)
    assert weights_hash(network) != hashes[0] and frozen_hash(network) == hashes[1]
