"""`mine … run.target_precision`: a bound from labels, end to end on scenes, and from any kind of labels."""

from __future__ import annotations

import json
import logging
from argparse import Namespace
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

import lavis_mafa
from lavis_mafa.core.settings import MafaSettings
from lavis_mafa.data.scenes.dataset import scenes_table
from lavis_mafa.evaluation.judge_check import JudgeCheck
from lavis_mafa.mining.candidates import CandidatePairs
from lavis_mafa.mining.engine import Mined
from lavis_mafa.mining.review import Labelled
from lavis_mafa.mining.strata import around_target, by_tenths, draw
from lavis_mafa.mining_job import job as mine

ROOT = Path(__file__).resolve().parents[2]
SCENES = ROOT / "projects" / "mafa" / "mine" / "mine_scenes.yaml"
SPLIT = {"n": 64, "seed": 21, "match_share": 0.02}
SMALL = [f"datasets.scenes.splits.train.{name}={value}" for name, value in SPLIT.items()]


@pytest.fixture(scope="module", autouse=True)
def registered() -> None:
    lavis_mafa.register()


CHECK = JudgeCheck.of(np.ones(1, np.float32), None, MafaSettings())


def mine_here(config: Path, *options: str) -> dict[str, Any]:
    return mine.run(Namespace(cfg_path=str(config), options=list(options)))


# ---- the whole command


def test_scenes_are_connected_above_a_bound_that_the_truth_confirms(tmp_path: Path) -> None:
    options = [*SMALL, "run.range_max=20", "run.target_precision=0.8", "run.batch_size_train=16"]
    summary = mine_here(SCENES, *options, "run.search_space=all", f"run.output_dir={tmp_path}", "run.gallery_size=4")
    found = summary["guarantee"]
    assert (found["labels"], found["labelled_by"], found["random_sample"]) == (200, "truth", True)
    assert found["precision_at_least"] >= 0.8 and summary["against_truth"]["precision"] >= 0.8
    mined = pd.read_parquet(tmp_path / "connections.parquet")
    assert ((mined["p"] > found["bound"]) == (mined["verdict"] == "connection")).all()
    _, _, truth = scenes_table(**SPLIT, captions_a_scene=2)
    true = truth(mined["record"].to_numpy(), mined["text_row"].to_numpy())
    recall = true[mined["p"] > found["bound"]].sum() / true.sum()
    assert found["recall"]["low"] <= recall <= found["recall"]["high"]
    batches = found["false_negatives_a_batch"]
    assert batches["grit"]["before"]["value"] > batches["random"]["before"]["value"] > 0
    assert batches["random"]["after"]["value"] < batches["random"]["before"]["value"]
    # 64 records of two captions: the matches among the candidates, times the chance that two records meet
    expected = true.sum() / 2 * 16 * 15 / (64 * 63)
    assert batches["random"]["before"]["low"] <= expected <= batches["random"]["before"]["high"]


def test_people_label_a_sample_and_mine_again(tmp_path: Path) -> None:
    table, open_image, truth = scenes_table(**SPLIT, captions_a_scene=2)
    rows = []
    for record in range(table.n_records):
        open_image(record).save(tmp_path / f"{record}.png")
        rows += [{"image": f"{record}.png", "caption": table.caption(row)} for row in table.caption_rows(record)]
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    config, out = tmp_path / "mine.yaml", tmp_path / "out"
    config.write_text(
        "model: {arch: mafa_albef, model_type: scenes_con_d}\n"
        f"datasets: {{image_text: {{images: {tmp_path}, annotations: {{train: {tmp_path / 'train.jsonl'}}}}}}}\n"
        f"run: {{target_precision: 0.8, gallery_size: 4, output_dir: {out}}}\n"
    )
    first = mine_here(config)
    assert first["connections"] == 0 and first["guarantee"]["bound"] is None
    assert "label review.csv" in first["guarantee"]["reason"]
    review = pd.read_csv(out / "review.csv")
    assert len(review) == 200 and review["above"].nunique() >= 8
    caption_row = {table.caption(row): row for row in range(table.n_captions)}
    records = review["image"].str.removesuffix(".png").astype(int).to_numpy()
    review["label"] = truth(records, review["caption"].map(caption_row).to_numpy()).astype(int)
    review.to_csv(out / "review.csv", index=False)
    second = mine_here(config)["guarantee"]
    assert (second["labels"], second["labelled_by"], second["random_sample"]) == (200, "people", True)
    assert second["bound"] in review["above"].tolist() and second["precision_at_least"] >= 0.8
    assert second["false_negatives_a_batch"] is None  # 64 records make no batch of 96


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["run.high=0.7"], "run.high is 0.7"),
        (["run.search_space=5"], "run.search_space is 5"),
        (["run.batch_size_train=1"], "run.batch_size_train is 1"),
        (["run.target_precision=1"], "run.target_precision is 1"),
    ],
)
def test_what_a_user_gets_wrong_is_reported(tmp_path: Path, options: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        mine_here(SCENES, *SMALL, "run.target_precision=0.9", f"run.output_dir={tmp_path}", *options)


# ---- what labels can be


def job(p_K: np.ndarray, true_K: np.ndarray, target: float = 0.9) -> Any:
    """Made-up scores: record k and text k are a candidate."""
    from lavis_mafa.mining_job.parts import Job  # knows LAVIS

    number_K = np.arange(len(p_K), dtype=np.int32)
    rank_K = np.ones(len(p_K), np.int32)
    none = np.empty(0, np.float32)
    store: Any = None
    candidates = CandidatePairs(number_K, number_K, p_K, rank_K, rank_K)
    mined = Mined(candidates, p_K, np.zeros(len(p_K), np.int8), none, none, {}, store, none)
    run = {"target_precision": target, "seed": 0, "review_size": 200, "batch_size_train": 96, "search_space": "all"}
    cfg, source = SimpleNamespace(run_cfg=SimpleNamespace(**run)), SimpleNamespace(data=SimpleNamespace(truth=None))
    return Job(Path(), cfg, source, SimpleNamespace(n_images=len(p_K)), mined, MafaSettings(), CHECK, "")  # type: ignore[arg-type]


@pytest.fixture
def world() -> tuple[np.ndarray, np.ndarray]:
    """(P(match), truth) of 4,000 candidates, of which the surest 800 match."""
    rng = np.random.default_rng(0)
    chance_K = np.repeat([0.99, 0.4, 0.01], [800, 400, 2800])
    return (chance_K - np.arange(4000) * 1e-6).astype(np.float32), rng.random(4000) < chance_K


def guarantee(the_job: Any, labelled: Labelled | None) -> tuple[Any, dict[str, Any]]:
    from lavis_mafa.mining_job.guarantee import guaranteed

    return guaranteed(the_job, labelled)


def sample(p_K: np.ndarray, true_K: np.ndarray, size: int = 200, plan: Any = around_target) -> Labelled:
    drawn = draw(plan(p_K, 0.9, size) if plan is around_target else plan(p_K, size), 3)
    return Labelled(drawn.at_L, true_K[drawn.at_L], drawn.weight_L, above_L=drawn.above_L)


def test_a_sample_of_these_scores_is_a_guarantee(world: Any) -> None:
    p_K, true_K = world
    after, found = guarantee(job(p_K, true_K), sample(p_K, true_K))
    assert found["random_sample"] and found["bound"] is not None
    connected = after.mined.verdict_K == 1
    assert np.array_equal(connected, p_K > found["bound"]) and true_K[connected].mean() >= 0.9
    assert found["precision"]["low"] <= true_K[connected].mean() <= found["precision"]["high"]
    assert found["labels_to_halve"] == 600
    assert after.rule.low <= after.rule.high == found["bound"]


def test_the_usual_sample_serves_too(world: Any) -> None:
    """Ten strata of equal size in labels: those above a bound are thinned."""
    p_K, true_K = world
    found = guarantee(job(p_K, true_K, target=0.7), sample(p_K, true_K, 400, by_tenths))[1]
    assert found["random_sample"] and found["bound"] is not None


def test_labels_of_other_scores_are_no_random_sample(world: Any, caplog: Any) -> None:
    p_K, true_K = world
    with caplog.at_level(logging.WARNING):
        found = guarantee(job(p_K**2, true_K), sample(p_K, true_K))[1]
    assert not found["random_sample"] and "no random sample" in caplog.text
    assert "drop run.review or choose a new run.output_dir" in caplog.text and "elete" not in caplog.text
    plain = replace(sample(p_K, true_K), above_L=None)
    assert not guarantee(job(p_K, true_K), plain)[1]["random_sample"]


def test_judged_pairs_are_labels_of_which_it_says_that_they_are_no_sample(world: Any, caplog: Any) -> None:
    p_K, true_K = world
    judged_job, rng = job(p_K, true_K), np.random.default_rng(5)
    at_A = np.sort(rng.choice(4000, 1500, replace=False))
    pairs = pd.DataFrame({"label": true_K[at_A]})
    judged_job.judged = SimpleNamespace(
        key_A=at_A.astype(np.int64) << 32 | at_A, at_P=np.arange(1500), pairs=SimpleNamespace(pairs=pairs)
    )
    with caplog.at_level(logging.WARNING):
        found = guarantee(judged_job, None)[1]
    assert (found["labelled_by"], found["random_sample"], found["labels"]) == ("judged_pairs", False, 1500)
    assert not {"precision", "recall", "false_negatives_a_batch"} & set(found)  # which only a random sample can tell
    assert found["bound"] is not None and "judged_pairs" in caplog.text


def test_where_no_bound_qualifies_nothing_is_connected_and_it_says_what_it_would_take(world: Any) -> None:
    from lavis_mafa.mining_job.guarantee import guarantee_text

    p_K, true_K = world
    rng = np.random.default_rng(1)
    weak_K = true_K & (rng.random(4000) < 0.95)  # about 94 % of the surest match
    after, found = guarantee(job(p_K, weak_K, target=0.9), sample(p_K, weak_K, 80))
    assert found["bound"] is None and not (after.mined.verdict_K == 1).any()
    assert 80 < found["labels_needed"] < 5000 and found["for_the_bound"] in around_target(p_K, 0.9, 80).above_S
    never = guarantee(job(p_K, true_K & (rng.random(4000) < 0.5)), sample(p_K, true_K & (rng.random(4000) < 0.5)))[1]
    assert never["bound"] is None and never["labels_needed"] is None
    assert "no number of labels can be given, as at no bound" in guarantee_text(never)[0]
    assert guarantee_text(never, 9)[0].endswith("The judge connects nothing; the connections (9) come from your labels")


def test_without_candidates_there_is_no_bound() -> None:
    none = np.empty(0, np.float32)
    assert guarantee(job(none, none.astype(bool)), None)[1]["bound"] is None


def test_it_reads_well(world: Any) -> None:
    from lavis_mafa.mining_job.guarantee import guarantee_text

    p_K, true_K = world
    text = "\n".join(guarantee_text(guarantee(job(p_K, true_K), sample(p_K, true_K))[1]))
    assert "with 95 % confidence at least 9" in text and "600 more labels" in text
    plain = replace(sample(p_K, true_K), above_L=None)
    assert "labels (people) are no random sample" in guarantee_text(guarantee(job(p_K, true_K), plain)[1])[-1]
    text = "\n".join(guarantee_text(guarantee(job(p_K, true_K), None)[1]))
    assert text.startswith("no bound with a precision of 90%: no labels yet") and text.endswith("Nothing is connected")
    assert "(at least 29 labels above a bound" in text  # 0.9 ** 29 < 0.05 < 0.9 ** 28
