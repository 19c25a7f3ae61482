"""Mining and calibrating by a judge of captions where LAVIS cannot be imported."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import pandas as pd
import pytest

from lavis_mafa.mining_job.config import load_mining
from lavis_mafa.scorers.registry import JUDGES
from tests.tiny_text import save_encoder

ROOT = Path(__file__).resolve().parents[2]
BLOCKED = """
import sys
from argparse import Namespace
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "lavis":
            raise ModuleNotFoundError(f"{name} is blocked", name=name)
sys.meta_path.insert(0, Blocked())
from lavis_mafa.mining_job import calibrate, job
for run in (calibrate.run, job.run):
    run(Namespace(cfg_path=sys.argv[1], options=[]))
assert "lavis" not in sys.modules
sys.argv = ["lavis-mafa", "mine", "--cfg-path", sys.argv[1], "--options", "model.arch=mafa_albef"]
from lavis_mafa.cli import main
main()
"""
CONFIG = """
datasets:
  scenes: {splits: {train: {n: 40, seed: 3, match_share: 0.02, captions_a_scene: 3}}}
run:
  output_dir: OUT
  con_d: {arch: captions, encoder: ENCODER, calibration: OUT/calibration.json}
  retrievers: [judge]
  range_max: 5
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    save_encoder(tmp_path / "encoder")
    text = CONFIG.replace("OUT", str(tmp_path / "out")).replace("ENCODER", str(tmp_path / "encoder"))
    (tmp_path / "mine.yaml").write_text(text)
    return tmp_path / "mine.yaml"


def test_a_judge_of_captions_is_calibrated_and_mines(config: Path) -> None:
    """On annotated pairs against random ones, as nobody judged any."""
    command = [sys.executable, "-W", "ignore", "-c", BLOCKED, str(config)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, cwd=ROOT)
    *_, last = done.stderr.strip().splitlines()
    assert done.returncode == 1 and last.startswith("error: ") and "lavis is blocked" in last, done.stderr[-3000:]
    out = config.parent / "out"
    labels = json.loads((out / "calibration.json").read_text())["labels"]
    assert labels["source"] == "annotated pairs against random ones" and labels["matches"] == 120
    summary = json.loads((out / "summary.json").read_text())
    frame = pd.read_parquet(out / "connections.parquet")
    assert summary["images"] == 40 and summary["candidates"] == len(frame) > 100
    assert "against_truth" in summary and (out / "gallery" / "index.html").exists()


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("run.con_d.arch=mafa_albef", "run.con_d.arch: there is no judge 'mafa_albef'"),
        ("run.retrievers=[model]", "no section `model` to propose candidates: set run.retrievers to [judge]"),
        ("run.con_d=null", "run.con_d must name a judge: {arch: captions"),
        ("datasets.scenes.splitz=1", "unknown key datasets.scenes.splitz: did you mean datasets.scenes.splits?"),
        ("run.range_maks=3", "unknown key run.range_maks: did you mean run.range_max?"),
    ],
)
def test_what_needs_lavis_or_is_wrong_is_refused(
    config: Path, option: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(JUDGES, "mafa_albef", raising=False)  # as another test may have registered it
    with pytest.raises(ValueError, match=re.escape(message)):
        load_mining(Namespace(cfg_path=str(config), options=[option]))
