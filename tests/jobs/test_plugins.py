"""A judge, a tower, targets and a data set from a module outside the package, through the real commands."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from argparse import Namespace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import torch
from omegaconf import OmegaConf

import lavis_mafa
from lavis_mafa.core.settings import MafaSettings
from lavis_mafa.scorers.registry import JUDGES, Judge, ScorerRequest, build_scorer, missing_view
from tests.jobs.commands import ROOT, environment, rows

PLUGIN = '''
"""Squares of one colour, and a judge that knows colours."""

from pathlib import Path

import pyarrow as pa
import torch
import lavis_mafa.compat  # noqa: F401  before the first import of lavis
from lavis.common.registry import registry
from PIL import Image, ImageColor
from torch import nn

from lavis_mafa.core import losses
from lavis_mafa.core.targets import TARGETS, Targets
from lavis_mafa.data.records import RecordTable
from lavis_mafa.datasets.pairs import RecordBuilder
from lavis_mafa.models.towers.build import TOWERS
from lavis_mafa.scorers.registry import JUDGES, Judge

COLOURS = ("red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink")


def rgb(name):
    return torch.tensor(ImageColor.getrgb(name)).float()


class MeanColours:
    """Compares the image's mean colour with that of the caption; sees images by a view of its own."""

    fingerprint = "mean colours"

    def __init__(self, sure):
        self.sure = sure

    def view(self, image):
        return torch.tensor(image.resize((1, 1)).getpixel((0, 0))).float()[:, None, None]

    def score(self, batch, image_K, text_K):
        seen_K3 = batch["judge_image"][image_K].flatten(1)
        told_K3 = torch.stack([rgb(batch["caption"][row].split()[1]) for row in text_K.tolist()])
        same_K = (seen_K3 - told_K3.to(seen_K3)).abs().amax(dim=1) < 8
        return torch.where(same_K, self.sure, 1 - self.sure)


class Always:
    """All that a scorer needs."""

    fingerprint = "always"

    def score(self, batch, image_K, text_K):
        return torch.full(image_K.shape, 0.9)


JUDGES.add("mean_colours")(
    Judge(lambda request: MeanColours(float(request.section.get("sure", 0.95))), keys=("sure",), costs="a pixel")
)
JUDGES.add("always")(Judge(lambda request: Always()))


class Patches(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.num_features = width
        self.patches = nn.Conv2d(3, width, 16, 16)

    def forward(self, image):
        return self.patches(image).flatten(2).transpose(1, 2)


@TOWERS.add("patches:WIDTH")
def patches(name, image_size, weights):
    return Patches(int(name))


@TARGETS.add("sharp")
@Targets
def sharp(step):
    """Labels without any smoothing."""
    return losses.managed_itc_targets(step.settled, step.known_BW, step.first_col, 0.0, 0.0)


@registry.register_builder("squares")
class SquaresBuilder(RecordBuilder):
    DATASET_CONFIG_DICT = {"default": str(Path(__file__).with_name("squares.yaml"))}

    def splits(self):
        return self.config.records

    def source(self, split, options):
        numbers = range(options["records"][split])
        colours = [COLOURS[number % 8] for number in numbers]
        captions = [[f"a {colour} {('circle', 'square')[number // 8 % 2]}"] for number, colour in zip(numbers, colours)]
        names = [f"{split}/{number}" for number in numbers]
        table = RecordTable.from_rows(pa.table({"image": names, "caption": captions}), "squares")
        return table, lambda record: Image.new("RGB", (48, 48), colours[record]), None
'''
SQUARES = """
datasets:
  squares:
    data_type: images
    records: {train: 64, test: 16}
    vis_processor:
      train: {name: blip_image_eval, image_size: 48, mean: 0.5, std: 0.5}
      eval: {name: blip_image_eval, image_size: 48, mean: 0.5, std: 0.5}
    text_processor:
      train: {name: blip_caption}
      eval: {name: blip_caption}
"""
TRAIN = """
model:
  arch: mafa_blip2
  model_type: scenes
  vit_model: patches:32
  vit_weights: null
  freeze_vit: false
  mafa: {targets: sharp}
datasets: {squares: {}}
run:
  plugins: [colours]
  con_d: {arch: mean_colours, sure: 0.9}
  output_dir: out
  max_epoch: 2
  batch_size_train: 16
  warmup_steps: 2
  search_space: 32
"""
MINE = """
model: {arch: mafa_albef, model_type: scenes_con_d}
datasets: {squares: {records: {train: 32}}}
run: {plugins: [colours], con_d: {arch: mean_colours}, range_max: 12, gallery_size: 0}
"""


@pytest.fixture(scope="module", autouse=True)
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The user's folder: a plugin, and two runs that name it."""
    lavis_mafa.register()
    place = tmp_path_factory.mktemp("user")
    files = {"colours.py": PLUGIN, "squares.yaml": SQUARES, "train.yaml": TRAIN, "mine.yaml": MINE}
    for name, text in files.items():
        (place / name).write_text(text)
    return place


@pytest.fixture(autouse=True)
def here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", sys.path[:])


def command(folder: Path, module: str, config: str, *more: str) -> str:
    """What the command prints, started in the user's folder."""
    words = [sys.executable, "-m", f"lavis_mafa.{module}", "--cfg-path", config, *more]
    done = subprocess.run(
        words, cwd=folder, env=environment(PYTHONPATH=str(ROOT)), capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    return done.stdout


def load(*options: str, config: str = "train.yaml") -> Any:
    from lavis_mafa.common.run_schema import MineRun, TrainRun
    from lavis_mafa.config.load import load_config

    schema = MineRun if config == "mine.yaml" else TrainRun
    return load_config(Namespace(cfg_path=config, options=list(options)), schema)


def mined(config: str, *options: str) -> pd.DataFrame:
    from lavis_mafa.mining_job.job import run

    run(Namespace(cfg_path=config, options=list(options)))
    return pd.read_parquet(Path(options[0].partition("=")[2]) / "connections.parquet")


def test_a_run_trains_on_what_a_plugin_brings(folder: Path) -> None:
    command(folder, "train", "train.yaml")
    steps = rows(folder / "out" / "steps.jsonl")
    assert len(steps) == 8 and sum(row["connections"] for row in steps) > 0
    assert all(row["ambiguous"] == 0 for row in steps)
    stored = json.loads((folder / "out" / "connections" / "store.json").read_text())
    assert stored["fingerprint"].endswith(":mean colours")


def test_dry_run_knows_a_plugins_judge(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from lavis_mafa.config.dry_run import dry_run

    assert dry_run(load()) == []
    printed = capsys.readouterr().out
    assert "the judge (mean_colours) comes on top: a pixel" in printed and "visual_encoder: 0.02 M trained" in printed


def test_mining_asks_a_plugins_judge(tmp_path: Path) -> None:
    frame = mined("mine.yaml", f"run.output_dir={tmp_path / 'a'}")
    number = frame["image"].str.removeprefix("train/").astype(int)
    same = frame["caption"].str.split().str[1] == number.map(lambda n: sys.modules["colours"].COLOURS[n % 8])
    assert (same == (frame["verdict"] == "connection")).all()
    assert 0 < (frame.verdict == "connection").sum() < len(frame)


def test_mining_asks_a_plain_scorer_wherever_a_worker_stands(folder: Path, tmp_path: Path) -> None:
    """As Ray has it: the networks are built anew in a process that starts in another folder."""
    from lavis_mafa.mining_job.job import BuildNetworks, load_source

    frame = mined("mine.yaml", f"run.output_dir={tmp_path / 'out'}", "run.con_d={arch: always}")
    assert len(frame) > 0 and frame["p"].to_numpy() == pytest.approx(0.9)
    config = load("run.con_d={arch: always}", config="mine.yaml").config
    data = load_source(SimpleNamespace(model_cfg=config.model, datasets_cfg=config.datasets, run_cfg=config.run)).data
    build = BuildNetworks(OmegaConf.to_container(config, resolve=True), data.table.fingerprint, str(folder))
    (tmp_path / "build").write_bytes(pickle.dumps(build))
    code = "import pickle, sys; print(pickle.load(open('build', 'rb'))().scorer_fingerprint)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=environment(PYTHONPATH=str(ROOT)),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.stdout.startswith("always:"), done.stderr[-3000:]


def test_a_judge_from_a_plugin_serves_open_clip() -> None:
    pytest.importorskip("open_clip_train")
    from lavis_mafa.openclip_train import launcher

    words = ["--mafa-plugins", "colours", "--mafa-con-d", "arch=mean_colours", "sure=0.8"]
    scorer = launcher._con_d(launcher.parser().parse_args(words), torch.device("cpu"))
    assert type(scorer).__name__ == "MeanColours" and scorer.sure == 0.8


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("run.plugins=[no_such_module]", r"run\.plugins: module 'no_such_module' cannot be imported \(ModuleNotFound"),
        ("run.plugins=[broken]", r"run\.plugins: module 'broken' cannot be imported \(ZeroDivisionError"),
        ("run.plugins=colours", r"run\.plugins is 'colours': give a list of module names"),
        ("run.plugins=null", r"run\.plugins is None: give a list of module names"),
        ("run.con_d={arch: mean_colour}", r"run\.con_d\.arch: there is no judge .* did you mean mean_colours\?"),
        ("run.con_d={arch: open_clp}", "did you mean open_clip"),
        ("run.con_d.sur=1", r"unknown key run\.con_d\.sur: did you mean run\.con_d\.sure\?"),
        ("model.mafa.targets=sharpp", "targets is 'sharpp'; it must be s_itc or .* or sharp"),
        ("datasets.squares.vis_processor.trian.name=x", r"did you mean datasets\.squares\.vis_processor\.train"),
    ],
)
def test_what_is_wrong_is_reported(option: str, message: str, folder: Path) -> None:
    (folder / "broken.py").write_text("1 / 0")
    with pytest.raises(ValueError, match=message):
        load(option)


@pytest.mark.parametrize("arch", ["self", "file, path: x", "open_clip, vit_model: x"])
def test_mining_refuses_judges_of_training(arch: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"run\.con_d\.arch: .* judges in training alone.*mean_colours"):
        mined("mine.yaml", f"run.output_dir={tmp_path}", f"run.con_d={{arch: {arch}}}")


def test_an_unknown_tower_is_told_with_those_of_plugins() -> None:
    from lavis_mafa.models.towers.build import build_tower

    load()
    with pytest.raises(ValueError, match="unknown tower 'patches'; choose .*patches:WIDTH"):
        build_tower("patches", 48, None)


def test_a_name_is_registered_once() -> None:
    with pytest.raises(ValueError, match="there is a judge 'self' already"):
        JUDGES.add("self")(Judge(lambda request: None))


def test_scores_that_are_stored_need_a_fingerprint(monkeypatch: pytest.MonkeyPatch) -> None:
    nameless = SimpleNamespace(fingerprint=None, score=print)
    request = ScorerRequest({"arch": "nameless"}, "run.con_d", torch.device("cpu"), MafaSettings())
    for is_stored in (True, False):
        monkeypatch.setitem(JUDGES, "nameless", Judge(lambda request: nameless, is_stored=is_stored))
        if is_stored:
            with pytest.raises(ValueError, match="has no fingerprint .* is_stored=False"):
                build_scorer(request)
        else:
            assert build_scorer(request) is nameless


def test_a_scorer_without_a_view_adds_none() -> None:
    plain, data = SimpleNamespace(fingerprint="any", score=print), SimpleNamespace(vis_processor=str, tokens=None)
    seeing = SimpleNamespace(**vars(plain), view=int)
    assert missing_view(plain, data) is None and missing_view(seeing, data) is int
    assert missing_view(SimpleNamespace(**vars(plain), view=str), data) is None  # the batch's own image serves
