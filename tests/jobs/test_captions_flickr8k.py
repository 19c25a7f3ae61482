"""The captions' judge on real photographs: calibrated on judged pairs, then mining, by the shipped config."""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from omegaconf import OmegaConf

import lavis_mafa
from lavis_mafa.core.pairs import CONNECTION, judge
from lavis_mafa.mining_job import calibrate
from lavis_mafa.mining_job import job as mine

CONFIG = Path(__file__).resolve().parents[2] / "projects" / "mafa" / "mine" / "mine_flickr8k.yaml"
EVERY = 5  # photograph


def read(file: Path) -> Any:
    return json.loads(file.read_text())


@pytest.fixture(scope="module")
def folder(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a calibration, then mining ran on a fifth of the test photographs."""
    folder = tmp_path_factory.mktemp("captions")
    rows = read(shared_data / "flickr8k" / "flickr8k_test.json")[::EVERY]
    images = {row["image"] for row in rows}
    judged = [row for row in read(shared_data / "flickr8k" / "fn_benchmark.json") if row["image"] in images]
    (folder / "few.json").write_text(json.dumps(rows))
    (folder / "judged.json").write_text(json.dumps(judged))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LAVIS_MAFA_DATA", str(shared_data))
        lavis_mafa.register()
        config = OmegaConf.load(CONFIG)
        config.datasets.image_text.annotations.test = str(folder / "few.json")
        config.run.update(output_dir=str(folder / "out"), judged_pairs=str(folder / "judged.json"), range_max=60)
        config.run.con_d.calibration = str(folder / "calibration.json")
        OmegaConf.save(config, folder / "mine.yaml")
        arguments = Namespace(cfg_path=str(folder / "mine.yaml"), options=[])
        calibrate.run(arguments)
        mine.run(arguments)
    return folder


def test_a_calibration_says_how_far_off_it_is(folder: Path) -> None:
    found = read(folder / "calibration.json")
    assert found["labels"]["pairs"] > 1000 and 0.2 < found["labels"]["matches"] / found["labels"]["pairs"] < 0.5
    figures = found["figures"]
    assert figures["auc_of_scores"] > 0.94 and figures["auc"] > 0.93
    assert figures["ece"] < 0.04 < figures["ece_of_scores"]
    by_length = figures["by_caption_length"]
    assert len(by_length) == 3 and sum(each["pairs"] for each in by_length.values()) == found["labels"]["pairs"]
    assert (folder / "calibration.png").stat().st_size > 10_000


def test_captions_find_the_false_negatives_that_people_found(folder: Path) -> None:
    summary = read(folder / "out" / "summary.json")
    figures = summary["against_judgments"]["all"]
    low, high = figures["intervals_95"]["auc"]
    assert low < figures["auc"] < high and figures["auc"] >= 0.93
    assert figures["precision"] >= 0.9 and figures["recall"] >= 0.5
    assert summary["against_siblings"]["found"] >= 0.65
    counted = {"captions_read": 1000, "captions_cut": 0}
    assert summary["judge"] == {"fingerprint": summary["judge"]["fingerprint"], **counted}


def test_the_bounds_are_those_of_a_probability(folder: Path) -> None:
    frame = pd.read_parquet(folder / "out" / "connections.parquet")
    taken = judge(frame["p"].to_numpy(), 0.5, 0.8) == CONNECTION
    assert (taken == (frame["verdict"] == "connection")).all() and taken.any()
    least = frame.loc[taken, "similarity"].min()
    assert 0.3 < least < 0.55, "of a cosine 0.8 would be far too much"


@pytest.mark.parametrize("arch", ["ensemble", "cascade"])
def test_captions_and_a_matching_network_judge_together(
    folder: Path, shared_data: Path, tmp_path: Path, arch: str
) -> None:
    """Fitted by the same command, on the same labels; then they mine."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LAVIS_MAFA_DATA", str(shared_data))
        config = OmegaConf.load(folder / "mine.yaml")
        network = {"arch": "mafa_albef", "model_type": "scenes_con_d"}  # knows nothing of photographs
        config.model = network
        encoder = config.run.con_d.encoder
        judges = [{"arch": "captions", "encoder": encoder}, network]
        config.run.con_d = {"arch": arch, "judges": judges, "calibration": str(tmp_path / "fitted.json")}
        config.run.update(output_dir=str(tmp_path / "out"), retrievers=["model"], range_max=1)
        OmegaConf.save(config, tmp_path / "mine.yaml")
        arguments = Namespace(cfg_path=str(tmp_path / "mine.yaml"), options=[])
        calibrate.run(arguments)
        summary = mine.run(arguments) if arch == "ensemble" else None
    found = read(tmp_path / "fitted.json")
    if arch == "ensemble":
        assert found["figures"]["auc"] > 0.93 > found["figures"]["auc_of_scores"], "the mean listens to the network"
        assert all(curve["weights"][0] > 5 * abs(curve["weights"][1]) for curve in found["curves"])
        assert summary["candidates"] > 100 and summary["judge"]["captions_read"] > 0
    else:
        assert 0 <= found["asked_of_the_second"] <= 1


def test_a_file_that_is_no_calibration_is_not_overwritten(folder: Path, shared_data: Path) -> None:
    other = folder / "mine.json"
    other.write_text('{"mine": 1}')
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LAVIS_MAFA_DATA", str(shared_data))
        arguments = Namespace(cfg_path=str(folder / "mine.yaml"), options=[f"run.con_d.calibration={other}"])
        with pytest.raises(ValueError, match=r"is not a calibration file of lavis_mafa: name another file"):
            calibrate.run(arguments)
        with pytest.raises(ValueError, match=r"run.con_d.calibration names no file"):
            calibrate.run(Namespace(**{**vars(arguments), "options": ["run.con_d.calibration=null"]}))
    assert other.read_text() == '{"mine": 1}'
