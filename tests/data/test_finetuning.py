"""Rows of the downstream tasks as LAVIS' models read them; drawn by (seed, epoch, row) alone."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from lavis_mafa.data.dataset import PairDataset
from lavis_mafa.data.downstream import AnsweredQuestions, StatementRow, Statements, TextAssignment
from lavis_mafa.data.questions import QuestionRow
from lavis_mafa.data.scenes.dataset import scenes_table
from lavis_mafa.data.scenes.scene import Scene, SceneObject, scene_number, scene_rng
from lavis_mafa.data.scenes.statements import STATERS, statement_about


def pixels(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.asarray(image, dtype=np.float32))[0, 0]


def flat(number: int) -> Image.Image:
    return Image.new("RGB", (2, 2), (number, number, number))


def questions(*answers: tuple[str, ...]) -> AnsweredQuestions:
    rows = [QuestionRow(7 + i, f"{i}.jpg", f"Q{i}", given) for i, given in enumerate(answers)]
    return AnsweredQuestions(rows, flat, pixels, str.lower, seed=0)


def test_answers_are_weighed_and_laid_end_to_end() -> None:
    data = questions(("red", "blue", "red", "red"), (), ("dog",))
    assert len(data) == 2  # a question without an answer teaches nothing
    batch = data.collater([data[0], data[1]])
    assert batch["answer"] == ["red", "blue", "dog"] and batch["n_answers"].tolist() == [2, 1]
    assert batch["weight"].tolist() == pytest.approx([0.75, 0.25, 1.0])
    assert batch["text_input"] == ["q0", "q2"] and batch["index"].tolist() == [0, 1]
    assert batch["image"][:, 0].tolist() == [0.0, 2.0]  # each with its own image
    assert questions(("red",)).table.fingerprint != questions(("blue",)).table.fingerprint
    with pytest.raises(ValueError, match="no rows with an answer"):
        questions(())


def test_statements_flip_by_seed_epoch_and_row() -> None:
    import random

    rows = [StatementRow(i, (f"{i}l", f"{i}r"), "S", i % 2 == 0) for i in range(40)]

    def flip(sample: dict[str, Any]) -> dict[str, Any]:
        return {**sample, "flipped": random.random() < 0.5}

    data = Statements(rows, lambda row, side: flat(2 * row + side), pixels, str.lower, 3, flip)
    first = [data[i]["flipped"] for i in range(40)]
    assert first == [data[i]["flipped"] for i in range(40)] and 5 < sum(first) < 35
    data.set_epoch(1)
    assert first != [data[i]["flipped"] for i in range(40)]
    sample = Statements(rows, lambda row, side: flat(2 * row + side), pixels, str.lower, 3)[2]
    assert (sample["image0"][0].item(), sample["image1"][0].item()) == (4.0, 5.0)
    assert (sample["label"], sample["text_input"]) == (1, "s")


def test_text_assignment_says_whose_the_text_is() -> None:
    table, *_ = scenes_table(60, 5)
    pairs = PairDataset(table, flat, pixels, str, 0, False)
    data, labels = TextAssignment(pairs, 0), Counter()
    for epoch in range(5):
        data.set_epoch(epoch)
        for record in range(60):
            sample, own = data[record], pairs[record]
            shown = [int(sample[f"image{side}"][0]) for side in (0, 1)]
            assert shown[0] != shown[1] and record in shown
            if sample["label"] == 2:
                assert sample["text_input"] not in {pairs[one]["text_input"] for one in shown}
            else:
                assert shown[sample["label"]] == record and sample["text_input"] == own["text_input"]
            labels[sample["label"]] += 1
    assert min(labels.values()) > 70


def test_half_of_the_statements_hold_and_no_one_sees_the_answer_in_the_kind() -> None:
    found = [
        statement_about(scene_number(1, 2 * i), scene_number(1, 2 * i + 1), scene_rng(1, i, 8)) for i in range(3000)
    ]
    assert abs(np.mean([holds for _, holds in found]) - 0.5) < 0.04
    by_start: dict[str, list[bool]] = {}
    for sentence, holds in found:
        by_start.setdefault(" ".join(sentence.split()[:2]), []).append(holds)
    assert all(0.3 < np.mean(held) < 0.7 for held in by_start.values() if len(held) > 150)
    assert len({sentence for sentence, _ in found}) > 250


RED_CIRCLE, BLUE_RING, RED_RING = (SceneObject(s, c, 0, r, 0) for s, c, r in ((0, 0, 0), (5, 5, 1), (5, 0, 2)))
LEFT, RIGHT = Scene((RED_CIRCLE,), 0, 0), Scene((BLUE_RING, RED_RING), 0, 0)
BY_HAND = {
    "the left image contains a red circle": True,
    "the right image contains a red circle": False,
    "the right image contains a blue ring": True,
    "both images contain a red object": True,
    "exactly one image contains a red object": False,
    "exactly one image contains a ring": True,
    "neither image contains a ring": False,
    "there are two red objects in the two images": True,
    "there is one red object in the two images": False,
    "there are no stars in the two images": True,
    "the left image shows more objects than the right image": False,
    "the right image shows more objects than the left image": True,
    "the two images show the same number of objects": False,
}


def test_statements_by_hand() -> None:
    rng = np.random.default_rng(0)
    truth_of = {}
    for _ in range(1500):
        for stater in set(STATERS):
            sentence, holds = stater(LEFT, RIGHT, rng)
            assert truth_of.setdefault(sentence, holds) == holds
    assert {sentence: truth_of.get(sentence) for sentence in BY_HAND} == BY_HAND
