"""LAVIS' own data sets of the downstream tasks become ours: COCO retrieval, VQA v2, NLVR2."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import lavis_mafa


class Processor:
    """What an image and a text come to: one number, lower case."""

    transform = "one number"

    def __call__(self, given: Any) -> Any:
        return given.lower() if isinstance(given, str) else torch.tensor([given.getpixel((0, 0))[0]])


@pytest.fixture(autouse=True, scope="module")
def registered() -> None:
    lavis_mafa.register()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for number in range(4):
        Image.new("RGB", (2, 2), (10 * number,) * 3).save(tmp_path / f"{number}.png")
    return tmp_path


def write(folder: Path, name: str, rows: list[dict[str, Any]]) -> list[str]:
    (folder / name).write_text(json.dumps(rows))
    return [str(folder / name)]


def test_retrieval_keeps_its_held_out_splits(root: Path) -> None:
    from lavis.datasets.datasets.retrieval_datasets import RetrievalDataset, RetrievalEvalDataset

    from lavis_mafa.datasets.lavis_captions import mix

    train = [{"image": f"{i // 2}.png", "caption": f"C{i}", "image_id": f"coco_{i // 2}"} for i in range(4)]
    test = [{"image": "2.png", "caption": ["A", "B"]}, {"image": "3.png", "caption": ["D"]}]
    splits = {
        "train": RetrievalDataset(Processor(), Processor(), str(root), write(root, "train.json", train)),
        "test": RetrievalEvalDataset(Processor(), Processor(), str(root), write(root, "test.json", test)),
    }
    every_caption = mix({"coco_retrieval": splits}, 0, False, "raise", one_caption_a_record=True)["coco_retrieval"]
    assert len(every_caption["train"]) == 4 and every_caption["test"].img2txt == {0: [0, 1], 1: [2]}
    assert [every_caption["train"][i]["image_id"] for i in (0, 1)] == [every_caption["train"][0]["image_id"]] * 2
    found = mix({"coco_retrieval": splits}, 0, False, "raise")["coco_retrieval"]
    assert len(found["train"]) == 2  # rows of one image are one record
    assert found["test"].text == ["a", "b", "d"] and found["test"].img2txt == {0: [0, 1], 1: [2]}
    assert found["test"][1]["image"].item() == 30
    assert found["test"].image == splits["test"].image and found["test"].txt2img == splits["test"].txt2img


def test_vqa_trains_on_weighed_answers(root: Path) -> None:
    from lavis.datasets.datasets.coco_vqa_datasets import COCOVQADataset

    from lavis_mafa.tasks.albef import _answered

    rows = [
        {"question_id": 5, "image": "3.png", "question": "Q?", "answer": ["yes"] * 3 + ["no"], "dataset": "vqa"},
        {"question_id": 6, "image": "1.png", "question": "R?", "answer": ["two"], "dataset": "vqa"},
    ]
    theirs = COCOVQADataset(Processor(), Processor(), str(root), write(root, "vqa.json", rows))
    ours = _answered(theirs, 0)
    found = ours.collater([ours[0], ours[1]])
    expected = theirs.collater([theirs[0], theirs[1]])
    for name in ("text_input", "answer"):
        assert found[name] == expected[name]
    for name in ("image", "weight", "n_answers"):
        torch.testing.assert_close(found[name], expected[name])


def test_nlvr_is_flipped_in_training_alone(root: Path) -> None:
    from lavis.datasets.datasets.nlvr_datasets import NLVRDataset, NLVREvalDataset

    from lavis_mafa.datasets.statements import from_lavis

    rows = [{"images": ["1.png", "3.png"], "sentence": "The left one", "label": "True"}] * 12
    paths = write(root, "nlvr.json", rows)
    held_out = from_lavis(NLVREvalDataset(Processor(), Processor(), str(root), paths), 0)
    for sample in (held_out[number] for number in range(12)):
        assert (sample["image0"].item(), sample["image1"].item()) == (10, 30)
        assert (sample["text_input"], sample["label"]) == ("the left one", 1)
    train = from_lavis(NLVRDataset(Processor(), Processor(), str(root), paths), 0)
    sides = {(train[number]["image0"].item(), train[number]["text_input"]) for number in range(12)}
    assert sides == {(10, "the left one"), (30, "the right one")}
    assert held_out.open_image(0).size == (4, 2)


@pytest.mark.parametrize(
    ("predicted", "expected"),
    [(["table", "A  chair", "lamp"], [1.0, 1.0, 0.0]), (["bed", "table", "two"], [0.0, 0.0, 0.0])],
)
def test_a_hit_on_any_answer_counts(predicted: list[str], expected: list[float]) -> None:
    from lavis_mafa.data.questions import QuestionRow
    from lavis_mafa.evaluation.vqa_accuracy import hits

    rows = [
        QuestionRow(i, "x", "q", given) for i, given in enumerate([("table",), ("bed", "chair"), ("book", "3"), ()])
    ]
    found = hits(rows, [*predicted, "anything"])
    assert found[:3].tolist() == expected and found[3] != found[3]  # held back: no verdict


@pytest.mark.parametrize(
    ("name", "text", "answers"),
    [("a.json", '["x", "y", "x", " "]', ["x", "y"]), ("a.txt", "x\ny\n\n", ["x", "y"]), ("a.json", "{}", None)],
)
def test_answer_lists(name: str, text: str, answers: list[str] | None, tmp_path: Path) -> None:
    from lavis_mafa.tasks.albef import _read_answers

    (tmp_path / name).write_text(text)
    if answers is None:
        with pytest.raises(ValueError, match=r"run\.answer_list: .* is not a list of answers"):
            _read_answers(str(tmp_path / name))
    else:
        assert _read_answers(str(tmp_path / name)) == answers
