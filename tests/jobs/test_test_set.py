"""`mine --test-set` on scenes whose truth is known: what it writes, whom it asks, and what `evaluate` makes of it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import lavis_mafa
from lavis_mafa.common.formats import header
from lavis_mafa.data.scenes.dataset import scenes_table
from lavis_mafa.mining_job import job as mine

VIEW = "vis_processor: {eval: {name: blip_image_eval, image_size: 48, mean: 0.5, std: 0.5}}"  # of the model
SPLIT = {"n": 40, "seed": 21, "match_share": 0.02, "captions_a_scene": 2}


@pytest.fixture(scope="module", autouse=True)
def registered() -> None:
    lavis_mafa.register()


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    table, open_image, _ = scenes_table(**SPLIT)
    rows = []
    for record in range(table.n_records):
        open_image(record).save(folder / f"{record}.png")
        rows += [{"image": f"{record}.png", "caption": table.caption(row)} for row in table.caption_rows(record)]
    (folder / "test.jsonl").write_text("\n".join(map(json.dumps, rows)))
    path = folder / "mine.yaml"
    path.write_text(
        "model: {arch: mafa_albef, model_type: scenes_con_d}\n"
        f"datasets: {{image_text: {{images: {folder}, annotations: {{test: {folder / 'test.jsonl'}}}}}}}\n"
        "run: {split: test, low: 0.2, high: 0.9, gallery_size: 4, review_size: 30}\n"
    )
    return path


def mined(config: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    argv = ["mine", "--cfg-path", str(config), "--test-set", "--options", f"run.output_dir={out}"]
    monkeypatch.setattr(sys, "argv", argv)
    mine.main()
    return json.loads((out / "test_set.json").read_text())


def test_a_test_set_of_what_is_annotated_what_people_say_and_what_the_judge_is_sure_of(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = mined(config, tmp_path, monkeypatch)
    table, _, truth = scenes_table(**SPLIT)
    candidates = pd.read_parquet(tmp_path / "connections.parquet")
    count = candidates["verdict"].value_counts()
    own = len(set(zip(table.record_of_caption.tolist(), table.text_id.tolist(), strict=True)))
    expected = {"annotation": own, "people": 0, "judge": count["connection"], "unsure": count["ambiguous"]}
    assert first["found_by"] == expected and first["format"] == header("test_set")["format"]
    review = pd.read_csv(tmp_path / "review.csv")
    assert len(review) == 30 and set(review["verdict"]) == {"ambiguous"}  # people are asked about these alone

    row_of = {table.caption(row): row for row in range(table.n_captions)}
    record_L, row_L = review["image"].str.removesuffix(".png").astype(int), review["caption"].map(row_of)
    review["label"] = truth(record_L.to_numpy(), row_L.to_numpy()).astype(int)
    sure = candidates[candidates["verdict"] == "connection"].iloc[0]
    overruled = {"image": sure["image"], "caption": sure["caption"], "label": 0}  # people overrule the judge
    pd.concat([review, pd.DataFrame([overruled])]).to_csv(tmp_path / "review.csv", index=False)
    second = mined(config, tmp_path, monkeypatch)
    counts = second["found_by"]
    assert counts["people"] == review["label"].sum() > 0 and counts["judge"] == first["found_by"]["judge"] - 1
    assert counts["unsure"] == first["found_by"]["unsure"] - 30
    assert sure["caption"] not in [match["caption"] for match in second["images"][sure["image"]]]

    both_ways = [
        {(image, match["caption"], match["by"]) for image, found in second["images"].items() for match in found},
        {(match["image"], caption, match["by"]) for caption, found in second["captions"].items() for match in found},
    ]
    assert both_ways[0] == both_ways[1] and len(both_ways[0]) == sum(
        counts[by] for by in ("annotation", "people", "judge")
    )
    true = [
        truth(np.array([int(image[:-4])]), np.array([row_of[text]]))[0]
        for image, text, by in both_ways[0]
        if by != "annotation"
    ]
    assert np.mean(true) > 0.85

    evaluate(config, tmp_path)


def evaluate(config: Path, folder: Path) -> None:
    """`evaluate` has the same matches, and R-precision over them."""
    from lavis_mafa import train

    data = config.parent
    yaml = folder / "evaluate.yaml"
    yaml.write_text(
        "model: {arch: mafa_albef, model_type: scenes_con_d, mafa: {action: keep}}\n"
        f"datasets: {{image_text: {{images: {data}, annotations: {{test: {data / 'test.jsonl'}}}, {VIEW}}}}}\n"
        f"run: {{train_splits: [], test_splits: [test], test_set: {folder / 'test_set.json'}, "
        f"output_dir: {folder / 'evaluated'}}}\n"
    )
    sys.argv = ["evaluate", "--cfg-path", str(yaml)]
    train.run("Evaluate", evaluate=True)
    (results,) = (folder / "evaluated").rglob("results.json")
    found = json.loads(results.read_text())["retrieval"]
    assert found["itc"]["test_set"]["text"]["r1"] >= found["itc"]["annotation"]["text"]["r1"]
    assert 0 < found["at_r"]["itc"]["test_set"]["image"]["r_precision"] <= 100


def test_a_test_set_and_a_target_precision_ask_about_other_pairs(config: Path, tmp_path: Path) -> None:
    from argparse import Namespace

    options = ["run.test_set=true", "run.target_precision=0.9", f"run.output_dir={tmp_path}"]
    with pytest.raises(ValueError, match="run.test_set is True: allowed is false with run.target_precision"):
        mine.run(Namespace(cfg_path=str(config), options=options))
