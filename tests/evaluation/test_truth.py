"""The ground truth of LAVIS' data sets, from files in their formats."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lavis_mafa.compat  # noqa: F401  before the first import of lavis

import pandas as pd
import pytest
from lavis.common.registry import registry
from omegaconf import OmegaConf

from lavis_mafa.common.ranks import gathered
from lavis_mafa.data.questions import QuestionRow, answers_of, read_questions
from lavis_mafa.evaluation.compare import compared
from lavis_mafa.evaluation.ground_truth import CaptionTruth, caption_truth, coco_format, question_rows, read_references
from tests.ranks import on_ranks


def write(path: Path, content: Any) -> str:
    path.parent.mkdir(exist_ok=True)
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
    known = read_references(write(tmp_path / "gt.json", references))
    found = caption_truth(coco, known)
    assert found == CaptionTruth([391895], [coco.annotation[0]["image"]], {391895: ["a man", "b"]})
    nocaps = SimpleNamespace(annotation=[{"image": "0013ea2087020901.jpg", "img_id": 0}])
    assert caption_truth(nocaps) == CaptionTruth([0], ["0013ea2087020901.jpg"], {})
    with pytest.raises(ValueError, match="no captions for 1 images, e.g. 0"):
        caption_truth(nocaps, known)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, list[str]]]:
    """The address of `published`, a folder, and what was asked of it."""
    (tmp_path / "published").mkdir()
    asked: list[str] = []

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, text: str, *values: Any) -> None:
            asked.append(self.path)

        def send_header(self, keyword: str, value: str) -> None:
            torn = keyword == "Content-Length" and self.path == "/torn.json"
            super().send_header(keyword, str(int(value) + 9) if torn else value)

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=tmp_path / "published")) as http:
        threading.Thread(target=http.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{http.server_port}", asked
        http.shutdown()


def judge_on_rank_0(rank: int, world: int, url: str, cache: Path) -> Any:
    """As an evaluation does: rank 0 judges, and the others wait for it."""
    from lavis_mafa.tasks.captions import MafaCaptionTask

    registry.mapping["paths"]["cache_root"] = str(cache)
    dataset = SimpleNamespace(annotation=[{"image": "a_5.jpg"}])
    judged = None
    if rank == 0:
        task, predicted = MafaCaptionTask(OmegaConf.create({"references": url, "prompt": ""})), {5: "a cat"}
        judged = (
            task.judge(dataset, predicted)["images"],
            len(task.table(dataset, predicted)),
            len(task.files(dataset, predicted)),
        )
    return gathered(judged)


def test_references_by_url_are_fetched_once_and_by_the_rank_that_judges(
    tmp_path: Path, server: tuple[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    address, asked = server
    write(tmp_path / "published" / "gt.json", {"annotations": [{"image_id": 5, "caption": "a cat"}]})
    for _ in range(2):
        assert (
            on_ranks(2, tmp_path, judge_on_rank_0, f"{address}/gt.json", tmp_path / "cache") == [[(1, 1, 2), None]] * 2
        )
    assert asked == ["/gt.json"]
    monkeypatch.setitem(registry.mapping["paths"], "cache_root", str(tmp_path / "cache"))
    write(tmp_path / "published" / "other" / "gt.json", {"annotations": [{"image_id": 6, "caption": "a dog"}]})
    assert read_references(f"{address}/other/gt.json") == {6: ["a dog"]}


@pytest.mark.parametrize("name", ["gone.json", "torn.json"])
def test_what_does_not_come_in_full_is_reported_and_not_kept(
    name: str, tmp_path: Path, server: tuple[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(registry.mapping["paths"], "cache_root", str(tmp_path / "cache"))
    (tmp_path / "published" / "torn.json").write_text('{"annotations": []}')
    with pytest.raises(ValueError, match=rf"{name} cannot be downloaded .*; download it yourself"):
        read_references(f"{server[0]}/{name}")
    left = [path for path in tmp_path.rglob("*") if path.is_file() and "published" not in path.parts]
    assert [path.name for path in left] == [".lock"]


def test_a_caption_is_told_with_its_prompt_and_its_cider() -> None:
    from lavis_mafa.tasks.captions import MafaCaptionTask

    dataset = SimpleNamespace(annotation=[{"image": "a_5.jpg"}, {"image": "b_6.jpg"}])
    predicted, known = {5: "a cat sleeps", 6: "a dog"}, {5: ["a cat sleeps"], 6: ["the red bus"]}
    task = MafaCaptionTask(OmegaConf.create({"prompt": "a photo of", "references": None}))
    task.references = known
    table, judged = task.table(dataset, predicted), task.judge(dataset, predicted)
    assert table["question"].tolist() == ["a photo of"] * 2 and table["answer"].tolist() == ["a cat sleeps", "a dog"]
    assert table["verdict"][0] > table["verdict"][1] == 0
    assert 100 * table["verdict"].mean() == pytest.approx(judged["all"])
    task.references = {}
    assert task.table(dataset, predicted)["verdict"].tolist() == [None, None]


def test_coco_format_reads_back(tmp_path: Path) -> None:
    truth = CaptionTruth([5, 6], ["a_5.jpg", "b_6.jpg"], {5: ["x", "y"], 6: ["z"]})
    dataset = SimpleNamespace(annotation=[{"image": "a_5.jpg"}, {"image": "b_6.jpg"}])
    assert caption_truth(dataset, read_references(write(tmp_path / "gt.json", coco_format(truth)))) == truth


def test_questions_are_read_from_albefs_json(tmp_path: Path) -> None:
    rows = [{"question_id": 1, "image": "a.jpg", "question": "what?", "answer": ["bin"]}]
    assert read_questions(write(tmp_path / "q.json", rows)) == [QuestionRow(1, "a.jpg", "what?", ("bin",))]
    assert answers_of([{"answer": "x"}, "y"]) == ("x", "y") and answers_of(None) == ()
    (tmp_path / "torn.json").write_text('[{"question_id"')
    with pytest.raises(ValueError, match=r"torn\.json: broken JSON at line 1"):
        read_questions(tmp_path / "torn.json")
    (tmp_path / "bom.json").write_text(json.dumps(rows), encoding="utf-8-sig")
    (tmp_path / "lines.jsonl").write_text("\n".join(json.dumps({**rows[0], "question_id": n}) for n in ("7", 8.0)))
    assert len(read_questions(tmp_path / "bom.json")) == 1
    assert [row.question_id for row in read_questions(tmp_path / "lines.jsonl")] == [7, 8]


@pytest.mark.parametrize(
    ("answer", "answers"),
    [
        (3, ("3",)),
        (2.5, ("2.5",)),
        ([1, "one"], ("1", "one")),
        (0, ("0",)),
        ([], ()),
        ("", ()),
        ([{"answer": 4}], ("4",)),
    ],
)
def test_an_answer_may_be_a_number(answer: object, answers: tuple[str, ...]) -> None:
    assert answers_of(answer) == answers


FAULTS = {
    "a question needs question_id, image and question": {"image": None, "question_id": ...},
    "'image' must be a non-empty text, not None": {"image": None},
    "'question' must be a non-empty text, not ' '": {"question": " "},
    "'question_id' must be a whole number, not 'q1'": {"question_id": "q1"},
    "'question_id' must be a whole number, not 1.5": {"question_id": 1.5},
    "question_id 1 is that of row 1, too": {"question_id": 1},
    "an answer must be a text or a number, not True": {"answer": True},
    "an answer must be a text or a number, not None": {"answer": [{"score": 1}]},
}


@pytest.mark.parametrize("message", FAULTS)
def test_a_broken_question_is_named_with_file_and_row(tmp_path: Path, message: str) -> None:
    row = {"question_id": 1, "image": "a.jpg", "question": "what?", "answer": ["bin"]}
    broken = {name: value for name, value in {**row, "question_id": 2, **FAULTS[message]}.items() if value is not ...}
    with pytest.raises(ValueError, match=rf"q\.json, row 2: {re.escape(message)}"):
        read_questions(write(tmp_path / "q.json", [row, broken]))


def test_the_official_layout_of_vqa_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"q\.json, line 1: this is VQA's official layout"):
        read_questions(write(tmp_path / "q.json", {"questions": [{"image_id": 1, "question": "x", "question_id": 1}]}))


@pytest.mark.parametrize("edit", [{"question": "a \ud83d?"}, {"answer": ["\ud83d"]}, {"answer": "\ud83d"}])
def test_half_a_character_in_a_question_is_named(tmp_path: Path, edit: dict[str, Any]) -> None:
    rows = [{"question_id": 1, "image": "a.jpg", "question": "what?", "answer": ["bin"]}]
    with pytest.raises(ValueError, match=r"q\.json, row 2: .*half a character"):
        read_questions(write(tmp_path / "q.json", [*rows, {**rows[0], "question_id": 2, **edit}]))


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
    with pytest.raises(ValueError, match=r"results\.json is missing"):
        compared([tmp_path / "gone"])
