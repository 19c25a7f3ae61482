"""The whole command `python -m lavis_mafa.mine`, on scenes and on image files."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from argparse import Namespace
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from omegaconf import OmegaConf

import lavis_mafa
from lavis_mafa.common.artifacts import HOST
from lavis_mafa.core.settings import MafaSettings
from lavis_mafa.data.annotations import read_annotations
from lavis_mafa.data.scenes.dataset import scenes_table
from lavis_mafa.mining_job import job as mine
from lavis_mafa.scorers.registry import ScorerRequest

ROOT = Path(__file__).resolve().parents[2]
SCENES = ROOT / "projects" / "mafa" / "mine" / "mine_scenes.yaml"
SMALL = ["datasets.scenes.splits.train.n=48", "datasets.scenes.splits.train.match_share=0.02", "run.range_max=6"]


@pytest.fixture(scope="module", autouse=True)
def registered() -> None:
    lavis_mafa.register()


def start(module: str, config: Path, *options: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [
        sys.executable,
        "-W",
        "ignore",
        "-m",
        f"lavis_mafa.{module}",
        "--cfg-path",
        str(config),
        "--options",
        *options,
    ]
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT
    )


def finished(process: subprocess.Popen[str]) -> str:
    out, error = process.communicate(timeout=300)
    assert process.returncode == 0, error[-3000:]
    return out


@pytest.fixture(scope="module")
def mined(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder of a whole run on scenes, and what it printed."""
    folder = tmp_path_factory.mktemp("mine") / "whole"
    return folder, finished(start("mine", SCENES, *SMALL, f"run.output_dir={folder}"))


def test_the_command_leaves_what_it_promises(mined: tuple[Path, str]) -> None:
    folder, printed = mined
    names = {path.name for path in folder.iterdir()}
    assert names == {
        ".lavis_mafa",
        "cache",
        "connections.parquet",
        "gallery",
        "mining.png",
        "review",
        "review.csv",
        "summary.json",
        "suspects.csv",
    }
    summary, frame = json.loads((folder / "summary.json").read_text()), pd.read_parquet(folder / "connections.parquet")
    counts = frame["verdict"].value_counts()
    assert summary["candidates"] == len(frame) == summary["connections"] + summary["ambiguous"] + summary["negatives"]
    assert summary["connections"] == counts.get("connection", 0) > 0
    assert ((frame["p"] > 0.8) == (frame["verdict"] == "connection")).all()
    assert summary["recall_of_candidates"] == {"texts": 1.0, "images": 1.0}
    assert re.fullmatch(r"[0-9a-f]{24}.*:[0-9a-f]{24}", summary["judge"]["fingerprint"])
    assert 0 < summary["against_truth"]["coverage"] <= 1
    assert f"{len(frame):,} candidates" in printed and "against the truth function" in printed
    assert len(pd.read_csv(folder / "suspects.csv")) == summary["suspected_false_positives"]
    assert not list(folder.rglob("*.tmp")) and not list(folder.rglob("*.partial"))


def test_scores_are_those_of_lavis_own_path(mined: tuple[Path, str]) -> None:
    """By LAVIS' BERT, pair by pair: its text half for the similarity, then its fusion half for P(match)."""
    from lavis.processors import load_processor

    from lavis_mafa.models.albef.pretrain import MafaAlbef

    con_d = MafaAlbef.from_pretrained("scenes_con_d").float().eval()
    see = load_processor("blip_image_eval", {"image_size": 48, "mean": 0.5, "std": 0.5})
    table, open_image, _ = scenes_table(48, 21, 0.02)
    for row in pd.read_parquet(mined[0] / "connections.parquet").sample(6, random_state=1).itertuples():
        image = see(open_image(table.images.to_pylist().index(row.image)))[None]
        text = con_d.tokenizer(row.caption, return_tensors="pt")
        with torch.no_grad():
            bert, mask = con_d.text_encoder.bert, text.attention_mask
            words = bert(text.input_ids, mask, return_dict=True, mode="text").last_hidden_state
            tokens = con_d.visual_encoder(image)
            similarity = F.cosine_similarity(con_d.vision_proj(tokens[:, 0]), con_d.text_proj(words[:, 0])).item()
            seen = {"encoder_hidden_states": tokens, "return_dict": True, "mode": "fusion"}
            fused = bert(encoder_embeds=words, attention_mask=mask, **seen).last_hidden_state
            p = con_d.itm_head(fused[:, 0]).softmax(dim=1)[0, 1]
        assert row.p == pytest.approx(float(p), abs=1e-5)
        assert row.similarity == pytest.approx(similarity, abs=2e-3)  # embeddings are kept in float16


def test_killed_and_started_again_it_gives_the_same(mined: tuple[Path, str], tmp_path: Path) -> None:
    process = start("mine", SCENES, *SMALL, f"run.output_dir={tmp_path}")
    while process.poll() is None and not list((tmp_path / "cache").glob("scores_*")):
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (tmp_path / "summary.json").exists()
    finished(start("mine", SCENES, *SMALL, f"run.output_dir={tmp_path}"))
    assert_same(tmp_path, mined[0])


def test_ray_gives_the_same(mined: tuple[Path, str], tmp_path: Path) -> None:
    finished(start("mine", SCENES, *SMALL, f"run.output_dir={tmp_path}", "--engine", "ray"))
    assert_same(tmp_path, mined[0])


def assert_same(ours: Path, whole: Path) -> None:
    """Two folders of results hold the same, but for their own names."""
    for name in ("connections.parquet", "suspects.csv", "review.csv"):
        assert (ours / name).read_bytes() == (whole / name).read_bytes(), name
    one, other = (json.loads((folder / "summary.json").read_text()) for folder in (ours, whole))
    one["config"]["run"]["output_dir"] = other["config"]["run"]["output_dir"]
    assert one == other


@pytest.mark.parametrize("candidates", ["hardest", "batch"])
def test_pretraining_on_the_verdicts_needs_no_con_d(mined: tuple[Path, str], tmp_path: Path, candidates: str) -> None:
    config = OmegaConf.load(ROOT / "projects" / "mafa" / "blip2" / "pretrain_stage1_scenes.yaml")
    train, few = {"n": 48, "seed": 21, "match_share": 0.02}, {"n": 8}
    config.datasets.scenes = {"splits": {"train": train, "val": few, "test": few}}
    config.run.con_d = {"arch": "file", "path": str(mined[0] / "connections.parquet")}
    config.run.update(max_epoch=2, batch_size_train=16, k_test=0, output_dir=str(tmp_path / "out"))
    OmegaConf.save(config, tmp_path / "pretrain.yaml")
    weights = [f"model.mafa.candidates={candidates}", "model.mafa.positive_weight=probability"]
    finished(start("train", tmp_path / "pretrain.yaml", "run.seed=1", *weights))
    steps = pd.read_json(tmp_path / "out" / "steps.jsonl", lines=True)
    assert steps["connections"].sum() > 0 and steps["negatives"].sum() > 0
    if candidates == "batch":  # every pair but the known positives is judged, from both ends
        assert (steps["scored"] == 16 * 15 - steps["known_positives"]).all()
        assert (steps["candidates"] == 2 * steps["scored"]).all()
    stored = json.loads((tmp_path / "out" / "connections" / "store.json").read_text())
    assert ":file:" in stored["fingerprint"]


def test_verdicts_of_other_data_are_refused(mined: tuple[Path, str]) -> None:
    from lavis_mafa.scorers.verdict_file import build_verdicts

    table, *_ = scenes_table(16, seed=99)
    con_d = {"arch": "file", "path": str(mined[0] / "connections.parquet")}
    request = ScorerRequest(con_d, "run.con_d", torch.device("cpu"), MafaSettings(), SimpleNamespace(table=table))
    with pytest.raises(ValueError, match="holds no image of the training data"):
        build_verdicts(request)
    with pytest.raises(ValueError, match="arch file needs path"):
        build_verdicts(replace(request, section={"arch": "file"}))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A data set of image files: (config, annotation)."""
    folder = tmp_path_factory.mktemp("files")
    table, open_image, _ = scenes_table(24, 5, 0.02)
    lines = []
    for record in range(24):
        open_image(record).save(folder / f"{record}.png")
        lines += [
            {"image": f"{record}.png", "caption": table.caption(row), "from": "us"}
            for row in table.caption_rows(record)
        ]
    annotation = folder / "train.jsonl"
    annotation.write_text("\n".join(map(json.dumps, lines)))
    config = folder / "mine.yaml"
    config.write_text(
        "model: {arch: mafa_albef, model_type: scenes_con_d}\n"
        f"datasets: {{image_text: {{images: {folder}, annotations: {{train: {annotation}}}}}}}\n"
        "run: {range_max: 8, high: 0.6}\n"
    )
    return config, annotation


def mine_here(config: Path, *options: str) -> dict[str, Any]:
    """The command in this process: a start takes seconds."""
    return mine.run(Namespace(cfg_path=str(config), options=list(options)))


def test_annotation_files_of_one_name_are_all_written(files: tuple[Path, Path], tmp_path: Path) -> None:
    config, annotation = files
    lines, paths = annotation.read_text().splitlines(), [tmp_path / name / "train.jsonl" for name in ("a", "b")]
    for path, part in zip(paths, (lines[:24], lines[24:]), strict=True):
        path.parent.mkdir()
        path.write_text("\n".join(part))
    option = f"datasets.image_text.annotations.train=[{paths[0]},{paths[1]}]"
    summary = mine_here(config, f"run.output_dir={tmp_path / 'out'}", option)
    written = [
        (tmp_path / "out" / name).read_text().splitlines()
        for name in ("train_connected.jsonl", "train_2_connected.jsonl")
    ]
    assert set(lines[:24]) <= set(written[0]) and set(lines[24:]) <= set(written[1])
    assert sum(map(len, written)) - len(lines) == sum(summary["annotations"].values())


def test_image_files_their_annotation_and_labels(files: tuple[Path, Path], tmp_path: Path) -> None:
    config, annotation = files
    summary = mine_here(config, f"run.output_dir={tmp_path}")
    assert "against_truth" not in summary and "against_review" not in summary
    added = read_annotations(tmp_path / "train_connected.jsonl").num_rows - read_annotations(annotation).num_rows
    assert added == summary["connections"] == summary["annotations"]["train_connected.jsonl"] > 0
    review = pd.read_csv(tmp_path / "review.csv")
    review["label"] = (review["p"] > 0.3).astype(int)
    review.to_csv(tmp_path / "review.csv", index=False)
    labelled = (tmp_path / "review.csv").read_bytes()
    again = mine_here(config, f"run.output_dir={tmp_path}")
    assert again["against_review"]["precision"] == 1.0  # of the judge alone, whose connections are above 0.3
    assert (tmp_path / "review.csv").read_bytes() == labelled
    people = review[["image", "caption", "label"]].merge(pd.read_parquet(tmp_path / "connections.parquet"))
    assert len(people) == len(review) and set(people["verdict_by"]) == {"person"}
    assert (people["verdict"] == people["label"].map({1: "connection", 0: "negative"})).all()
    more = again["labelled_by_people"]["connected"]
    assert more > 0 and again["connections"] == summary["connections"] + more - again["labelled_by_people"]["rejected"]
    assert again["annotations"]["train_connected.jsonl"] == again["connections"]


def test_a_doubtful_judge_says_so(
    files: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    config, _ = files
    strict = "run.low=0.99999", "run.high=0.999999"
    with caplog.at_level("INFO"):
        summary = mine_here(config, f"run.output_dir={tmp_path}", *strict)
    judge = summary["judge_check"]
    assert judge["annotated_pairs"] == summary["own_pairs"] and judge["below_low"] > 0.5
    assert judge["below_low"] == pytest.approx(summary["suspected_false_positives"] / summary["own_pairs"])
    assert 0.9 < judge["auc_against_shuffled"] <= 1 and judge["advice"].startswith("it doubts ")
    assert "WARNING: the judge is doubtful: it doubts" in capsys.readouterr().out
    before = [record.message for record in caplog.records if "doubtful" in record.message]
    assert len(before) == 1 and "do not fit its scale" in before[0]  # before anything is mined


def test_an_image_that_was_replaced_is_embedded_anew(files: tuple[Path, Path], tmp_path: Path) -> None:
    config, annotation = files
    options = ["run.range_max=2", f"run.output_dir={tmp_path}"]
    mine_here(config, *options)
    before = {path.name for path in (tmp_path / "cache").glob("[!.]*")}
    os.utime(annotation.with_name("3.png"), (1, 1))
    mine_here(config, *options)
    assert len({path.name for path in (tmp_path / "cache").glob("[!.]*")} - before) == len(before)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["run.rangemax=3"], "did you mean run.range_max"),
        (["run.split=validation"], "run.split is 'validation'"),
        (["run.range_min=30"], "range_min < range_max"),
        (["model.finetuned="], "model has no weights"),
        (["run.review=none.csv"], "run.review: no file at none.csv"),
        (["run.judged_pairs=none.json"], "run.judged_pairs: no file at none.json"),
        (["run.range_max=abc"], "range_max is 'abc'"),
        (["run.index=foo"], "index is 'foo'"),
        (["run.low=abc"], "low is 'abc'"),
        (["run.high=1.5"], "high is 1.5"),
        (["run.batch_size_eval=0"], "run.batch_size_eval is 0"),
        (["run.review_size=-1"], "run.review_size is -1"),
        (["run.gallery_size=many"], "run.gallery_size is 'many'"),
        (["run.device=cuda"], "run.device is cuda, but torch"),
        (["run.device=tpu"], "run.device is 'tpu'"),
        (["run.cache_folder=setup.py"], "run.cache_folder is 'setup.py': allowed is a folder"),
    ],
)
def test_what_a_user_gets_wrong_is_reported(
    files: tuple[Path, Path], tmp_path: Path, options: list[str], message: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        mine_here(files[0], *options, f"run.output_dir={tmp_path}")
    assert not (tmp_path / "summary.json").exists()


def test_an_output_folder_that_is_a_file_is_reported(files: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "out").touch()
    with pytest.raises(ValueError, match="allowed is a folder; there is a file"):
        mine_here(files[0], f"run.output_dir={tmp_path / 'out'}")


def test_without_candidates_it_says_so_and_judges_nothing(files: tuple[Path, Path], tmp_path: Path) -> None:
    table = read_annotations(files[1])
    image, votes = table["image"][0].as_py(), ({"cf_yes": 3, "cf_no": 0}, {"cf_yes": 0, "cf_no": 3})
    judged = [
        {"image": image, "caption": "a red ring", "label": 1, "kind": "false_negative", **votes[0]},
        {"image": image, "caption": "a blue ring", "label": 0, "kind": "hard_true_negative", **votes[1]},
    ]
    (tmp_path / "judged.json").write_text(json.dumps(judged))
    out, option = tmp_path / "out", f"run.judged_pairs={tmp_path / 'judged.json'}"
    summary = mine_here(files[0], "run.max_score=-1", f"run.output_dir={out}", option)
    assert summary["candidates"] == summary["connections"] == 0
    assert len(pd.read_parquet(out / "connections.parquet")) == 0


def test_what_the_gallery_leaves_out_is_reported(files: tuple[Path, Path], tmp_path: Path) -> None:
    summary = mine_here(files[0], "run.gallery_size=1", f"run.output_dir={tmp_path}")
    page = (tmp_path / "gallery" / "index.html").read_text()
    assert f"Shown are the 1 surest of {summary['connections']:,} connections" in page
    mine_here(files[0], f"run.output_dir={tmp_path}")
    assert "Shown are the" not in (tmp_path / "gallery" / "index.html").read_text()


def test_what_a_killed_run_left_is_taken_away(files: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / f"gallery.lavis_mafa-{HOST}-999999999.new").mkdir()
    (tmp_path / f"summary.json.lavis_mafa-{HOST}-999999999.tmp").touch()
    mine_here(files[0], f"run.output_dir={tmp_path}")
    assert not list(tmp_path.glob("*999999999*")) and (tmp_path / "summary.json").exists()


def test_lavis_own_caption_data_is_mined(files: tuple[Path, Path], tmp_path: Path) -> None:
    """coco_caption, whose annotation has a row a caption."""
    rows = [json.loads(line) for line in files[1].read_text().splitlines()]
    number = {image: n for n, image in enumerate(dict.fromkeys(row["image"] for row in rows))}
    annotation = tmp_path / "coco_karpathy_train.json"
    annotation.write_text(json.dumps([{**row, "image_id": f"coco_{number[row['image']]}"} for row in rows]))
    here = {"url": [str(annotation)], "storage": [str(annotation)], "md5": None}
    info = {"annotations": dict.fromkeys(("train", "val", "test"), here), "images": {"storage": str(files[1].parent)}}
    processors = {
        "vis_processor": {"train": {"name": "blip_image_eval"}},
        "text_processor": {"train": {"name": "blip_caption"}},
    }
    config = OmegaConf.load(files[0])
    config.datasets = {"coco_caption": {**processors, "build_info": info}}
    OmegaConf.save(config, tmp_path / "mine.yaml")
    summary = mine_here(tmp_path / "mine.yaml", f"run.output_dir={tmp_path / 'out'}")
    connected = json.loads((tmp_path / "out" / "coco_karpathy_train_connected.json").read_text())
    assert len(connected) - len(rows) == summary["connections"] > 0 and summary["images"] == 24


def test_a_missing_image_is_named(files: tuple[Path, Path], tmp_path: Path) -> None:
    broken = tmp_path / "broken.jsonl"
    broken.write_text(files[1].read_text() + '\n{"image": "gone.png", "caption": "a red ring"}')
    with pytest.raises(ValueError, match=r"gone\.png"):
        mine_here(files[0], f"datasets.image_text.annotations.train={broken}", f"run.output_dir={tmp_path / 'out'}")
