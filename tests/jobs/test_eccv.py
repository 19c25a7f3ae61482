"""ECCV Caption and CxC: COCO's ids by image file and caption text; the package's own matches ranked first score 100."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from eccv_caption import Metrics

from lavis_mafa.evaluation.eccv import CocoIds, _ranked, coco_ids, eccv_figures, refuse_other_split
from lavis_mafa.runners.retrieval_evaluation import RetrievalEvaluation


def split() -> Any:
    images = ["val2014/COCO_val2014_000000391895.jpg", "val2014/COCO_val2014_000000000042.jpg"]
    captions = ["A man  on a bike.", "Two dogs", "A man on a bike.", "two dogs"]
    return SimpleNamespace(image=images, captions=captions, txt2img={0: 0, 1: 1, 2: 1, 3: 1})


def captions_file(folder: Path, *rows: tuple[int, int, str]) -> str:
    path = folder / "captions_val2014.json"
    annotations = [{"image_id": image, "id": number, "caption": caption} for image, number, caption in rows]
    path.write_text(json.dumps({"annotations": annotations}))
    return str(path)


def test_ids_by_file_name_and_text(tmp_path: Path) -> None:
    rows = ((42, 9, "two dogs"), (391895, 3, "a man on a bike."), (42, 8, "Two dogs "), (42, 7, "A man on a bike."))
    found = coco_ids(split(), captions_file(tmp_path, *rows))
    assert found.image.tolist() == [391895, 42]
    assert found.caption.tolist() == [3, 9, 7, 8]


def test_a_caption_that_coco_does_not_have_is_named(tmp_path: Path) -> None:
    path = captions_file(tmp_path, (391895, 3, "a man on a bike."), (42, 9, "two dogs"), (42, 7, "A man on a bike."))
    with pytest.raises(ValueError, match=r"lacks 'two dogs' of val2014/COCO_val2014_000000000042\.jpg"):
        coco_ids(split(), path)
    with pytest.raises(ValueError, match=r"none\.json is missing. Set run.coco_captions"):
        coco_ids(split(), str(tmp_path / "none.json"))


@pytest.fixture(scope="module")
def gold() -> tuple[CocoIds, Any]:
    metrics = Metrics()
    images, captions = (np.array(sorted(metrics.coco_gts[way])) for way in ("i2t", "t2i"))
    return CocoIds(images, captions), metrics


def test_another_split_is_refused(gold: tuple[CocoIds, Any], caplog: pytest.LogCaptureFixture) -> None:
    """The package would end in a bare KeyError."""
    ids, _ = gold
    refuse_other_split("test", ids)
    assert not caplog.messages
    with pytest.raises(ValueError, match="split val has no image of COCO's test split"):
        refuse_other_split("val", CocoIds(ids.image + 10**7, ids.caption + 10**7))
    refuse_other_split("test", CocoIds(ids.image, ids.caption[1:]))
    assert "the split test has 5000 of 5000 images and 24999 of 25000 captions" in caplog.text


def test_it_is_refused_before_the_training(tmp_path: Path) -> None:
    rows = ((42, 9, "two dogs"), (391895, 3, "a man on a bike."), (42, 8, "Two dogs "), (42, 7, "A man on a bike."))
    run_cfg = {"coco_captions": captions_file(tmp_path, *rows)}
    run = SimpleNamespace(settings=run_cfg, splits={"val": split()}, test_splits=["val"])
    with pytest.raises(ValueError, match="the split val has no image of COCO's test split"):
        RetrievalEvaluation(run)


def test_ranks_are_of_the_best_in_order() -> None:
    scores = np.array([[0.1, 0.9, 0.5], [0.3, 0.2, 0.4]])
    found = _ranked(lambda queries: scores[queries.start : queries.stop], np.array([7, 8]), np.array([30, 20, 10]))
    assert found == {7: [20, 10, 30], 8: [10, 30, 20]}


def test_what_the_package_knows_ranked_first_scores_a_hundred(gold: tuple[CocoIds, Any]) -> None:
    """But for two captions of its list that are not of the test split."""
    ids, metrics = gold

    def rows(way: str, query_ids: np.ndarray, item_ids: np.ndarray) -> Any:
        place = {int(one): row for row, one in enumerate(item_ids)}

        def of(queries: range) -> np.ndarray:
            scores = np.zeros((len(queries), len(item_ids)), dtype=np.float32)
            for row, query in enumerate(queries):
                known = metrics.eccv_gts[way].get(int(query_ids[query]), [])
                scores[row, [place[item] for item in known if item in place]] = 1.0
            return scores

        return of

    found = eccv_figures(rows("i2t", ids.image, ids.caption), rows("t2i", ids.caption, ids.image), ids)
    for name in ("eccv_r1", "eccv_rprecision", "eccv_map_at_r"):
        assert found[name] == {"text": pytest.approx(100, abs=0.1), "image": pytest.approx(100)}
    assert {"cxc_r1", "cxc_r5", "cxc_r10"} <= set(found) and 0 < found["coco_5k_r1"]["text"] < 100


def test_a_part_of_the_split_is_measured_by_what_is_there(gold: tuple[CocoIds, Any]) -> None:
    """A hundred images with their captions, every match ranked first; a foreign image is a distractor."""
    ids, metrics = gold
    image = np.append(ids.image[:100], 10**7)
    captions = sorted(caption for one in image[:100].tolist() for caption in metrics.coco_gts["i2t"][one])
    part = CocoIds(image, np.array(captions))
    gts = {way: {query: set(known) for query, known in metrics.coco_gts[way].items()} for way in ("i2t", "t2i")}

    def rows(way: str, query_ids: np.ndarray, item_ids: np.ndarray) -> Any:
        def of(queries: range) -> np.ndarray:
            found = [
                [item in gts[way].get(query, ()) for item in item_ids.tolist()] for query in query_ids[queries].tolist()
            ]
            return np.array(found, dtype=np.float32)

        return of

    found = eccv_figures(rows("i2t", part.image, part.caption), rows("t2i", part.caption, part.image), part)
    assert found["coco_5k_r1"] == {"text": 100, "image": 100}
    assert found["share_of_test_split"] == {
        "text": pytest.approx(2),
        "image": pytest.approx(100 * len(captions) / 25000, rel=0.01),
    }
    assert 0 < found["eccv_rprecision"]["text"] <= 100 and found["cxc_r1"]["image"] == 100
