"""The ground truth of LAVIS' data sets, from files in their formats."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest

from lavis_mafa.answers.compare import compared
from lavis_mafa.answers.truth import CaptionTruth, caption_truth, coco_format, question_rows
from lavis_mafa.data.questions import QuestionRow, answers_of, read_questions


def write(path: Path, content: Any) -> str:
    path.write_text(json.dumps(content))
    return str(path)


def test_vqa_scores_by_the_official_annotation(tmp_path: Path) -> None:
    official = {"question_id": 7, "question_type": "what", "answer_type": "other", "answers": [{"answer": "a"}] * 10}
    dataset = SimpleNamespace(
        annotation=[{"question_id": 7, "image": "x.jpg", "question": "what?"}],
        coco_fmt_anno_file=write(tmp_path / "anno.json", {"annotations": [official]}),
    )
    assert question_rows(dataset) == [QuestionRow(7, "x.jpg", "what?", ("a",) * 10, "what", "other")]


def test_gqa_has_one_answer_or_holds_it_back() -> None:
    rows = [
        {"question_id": "3", "image": "x", "question": "q", "answer": "yes"},
        {"question_id": 4, "image": "y", "question": "q"},
    ]
    found = question_rows(SimpleNamespace(annotation=rows))
    assert [(row.question_id, row.answers) for row in found] == [(3, ("yes",)), (4, ())]


def test_captions_of_coco_and_nocaps_are_named_by_number(tmp_path: Path) -> None:
    coco = SimpleNamespace(annotation=[{"image": "val2014/COCO_val2014_000000391895.jpg", "image_id": "other"}])
    references = {
        "images": [],
        "annotations": [{"image_id": 391895, "caption": "a man"}, {"image_id": 391895, "caption": "b"}],
    }
    found = caption_truth(coco, write(tmp_path / "gt.json", references))
    assert found == CaptionTruth([391895], [coco.annotation[0]["image"]], {391895: ["a man", "b"]})
    nocaps = SimpleNamespace(annotation=[{"image": "0013ea2087020901.jpg", "img_id": 0}])
    assert caption_truth(nocaps, None) == CaptionTruth([0], ["0013ea2087020901.jpg"], {})
    with pytest.raises(ValueError, match="no caption of 1 images, e.g. 0"):
        caption_truth(nocaps, str(tmp_path / "gt.json"))


def test_coco_format_reads_back(tmp_path: Path) -> None:
    truth = CaptionTruth([5, 6], ["a_5.jpg", "b_6.jpg"], {5: ["x", "y"], 6: ["z"]})
    dataset = SimpleNamespace(annotation=[{"image": "a_5.jpg"}, {"image": "b_6.jpg"}])
    assert caption_truth(dataset, write(tmp_path / "gt.json", coco_format(truth))) == truth


def test_questions_are_read_from_albefs_json(tmp_path: Path) -> None:
    rows = [{"question_id": 1, "image": "a.jpg", "question": "what?", "answer": ["bin"]}]
    assert read_questions(write(tmp_path / "q.json", rows)) == [QuestionRow(1, "a.jpg", "what?", ("bin",))]
    assert answers_of([{"answer": "x"}, "y"]) == ("x", "y") and answers_of(None) == ()
    with pytest.raises(ValueError, match=r"row 0: a question needs question_id"):
        read_questions(write(tmp_path / "bad.json", [{"image": "a"}]))
    with pytest.raises(ValueError, match="is no JSON file of questions"):
        read_questions(tmp_path / "gone.json")


def test_one_table_of_several_evaluations(tmp_path: Path) -> None:
    found = {"all": 50.0, "majority": {"all": 20.0}, "without_image": {"all": 10.0}, "lemmatised": None}
    folders = {}
    for name, value in (("trained", 50.0), ("untrained", 5.0)):
        folders[name] = tmp_path / name
        folders[name].mkdir()
        content = {
            "task": "mafa_vqa",
            "dataset": "gqa",
            "expected": {"paper": 44.2},
            "answers": {"val": {**found, "all": value}},
        }
        write(folders[name] / "results.json", content)
    table = compared([folders["trained"]], [folders["untrained"]])
    expected = {"this checkpoint": 50.0, "without the image": 10.0, "one answer to all": 20.0, "paper": 44.2}
    assert table.loc["gqa, val: accuracy"].to_dict() == {**expected, "untrained Q-Former": 5.0}
    assert isinstance(table, pd.DataFrame)
    with pytest.raises(ValueError, match="holds no results.json"):
        compared([tmp_path / "gone"])
