"""A matching network judges the hardest pairs of open_clip's batches, seeing each image as its file has it."""

import logging
import sys
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from PIL import Image

from lavis_mafa.core.miner import ConnectionMiner
from lavis_mafa.core.settings import MafaSettings
from lavis_mafa.openclip_train import launcher as train
from lavis_mafa.openclip_train.answers import ScorerAnswers
from lavis_mafa.openclip_train.images import CsvImages, RowViews
from lavis_mafa.scorers.registry import JUDGES

from . import launch
from .tiny import register_tiny

GREYS = [0, 40, 80, 120, 160, 200, 240, 20]


@pytest.fixture(autouse=True)
def quiet_logging():
    before = logging.getLogger().handlers[:]
    yield
    logging.getLogger().handlers = before


class ByGrey:
    """P(match) is high where the caption names the image's grey, to 40 levels; remembers what it was asked."""

    fingerprint = "by grey"

    def __init__(self):
        self.asked = []

    def view(self, image):
        return torch.full((3, 1, 1), float(image.getpixel((0, 0))[0]))

    def score(self, batch, image_K, text_K):
        grey_K = batch["judge_image"][image_K][:, 0, 0, 0]
        named_K = torch.tensor([float(batch["caption"][text].split()[-1]) for text in text_K.tolist()])
        self.asked += list(zip(grey_K.tolist(), named_K.tolist(), strict=True))
        return torch.where((grey_K - named_K).abs() <= 40, 0.9, 0.1)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    register_tiny(folder, "tiny-train")
    rows = []
    for number, grey in enumerate(GREYS):
        Image.new("RGB", (32, 32), (grey, grey, grey)).save(folder / f"{number}.png")
        rows.append((str(folder / f"{number}.png"), f"grey {grey}"))
    pd.DataFrame(rows, columns=["filepath", "title"]).to_csv(folder / "train.csv", sep="\t", index=False)
    return folder


def test_rows_are_judged_by_their_files(data):
    table = pd.read_csv(data / "train.csv", sep="\t")
    scorer = ByGrey()
    rows = torch.tensor([1, 2, 5])  # greys 40, 80, 200
    asked = table.iloc[rows.tolist()]
    views = RowViews(asked.filepath.tolist(), scorer.view, rows.device, CsvImages([str(data)]))
    samples = {"judge_image": views, "caption": asked.title.tolist(), "image_id": rows, "text_id": rows}
    # 40's image is nearest to the text "80"; 80's to "200"; 200's to "80"
    image = torch.tensor([[0.6, 0.8, 0.0], [0.0, 0.6, 0.5], [0.0, 0.8, 0.6]])
    masks = ScorerAnswers(scorer, MafaSettings())(samples, image, torch.eye(3))["pairs"]
    assert masks.connected_2BB[0].nonzero().tolist() == [[0, 1]]  # 40's image with "80": 40 apart
    # 80's image comes first for "40"; 40's and 200's are as near to "80", and the first is asked about
    assert masks.connected_2BB[1].nonzero().tolist() == [[0, 1], [1, 0]]
    assert set(scorer.asked) <= {(grey, named) for grey in (40.0, 80.0, 200.0) for named in (40.0, 80.0, 200.0)}


def test_a_batch_is_judged_as_a_whole(monkeypatch, data, tmp_path):
    """The 28 other pairs of a batch of 8 greys are judged from both ends, and those near each other are connected."""
    monkeypatch.setattr(train, "_con_d", lambda *_: ByGrey())
    con_d = ["--mafa-con-d", "arch=any", "--mafa-con-d-candidates", "batch"]
    weighed = ["--mafa-con-d-positive-weight", "probability"]
    argv = launch.arguments(data / "train.csv", tmp_path, *con_d, *weighed, "--epochs", 1, "--batch-size", 8)
    (call,) = launch.run(monkeypatch, argv)
    table = pd.read_csv(data / "train.csv", sep="\t")
    ids = train.pair_ids(table.filepath.tolist(), table.title.tolist())[:, 0].tolist()
    grey_B = torch.tensor([float(GREYS[ids.index(one)]) for one in call["image_id"].tolist()])
    near_BB = ((grey_B[:, None] - grey_B).abs() <= 40) & ~torch.eye(8, dtype=torch.bool)
    assert torch.equal(call["pairs"].connected_2BB, torch.stack([near_BB * 0.9, near_BB * 0.9]))


@pytest.mark.parametrize("option", [["action", "drop"], ["candidates", "batch"], ["positive-weight", "probability"]])
def test_what_is_said_of_a_judge_that_is_not_given_is_refused(option):
    options = train.parser().parse_args([f"--mafa-con-d-{option[0]}", option[1]])
    with pytest.raises(ValueError, match="are about --mafa-con-d: give that"):
        train.Training(options)


@pytest.mark.parametrize(("action", "more"), [("connect", []), ("drop", ["--accum-freq", 2])])
def test_the_launcher_hands_its_verdicts_to_the_loss(monkeypatch, data, tmp_path, action, more):
    scorer, given = ByGrey(), []
    monkeypatch.setattr(train, "_con_d", lambda options, *_: given.append(options.mafa_con_d) or scorer)
    con_d = ["--mafa-con-d", "arch=mafa_blip2", "model_type=coco", "--mafa-con-d-action", action]
    argv = launch.arguments(data / "train.csv", tmp_path, *con_d, *more, "--epochs", 2)
    calls = launch.run(monkeypatch, argv)
    assert given == [["arch=mafa_blip2", "model_type=coco"]]
    greys = dict(enumerate(GREYS))
    table = pd.read_csv(data / "train.csv", sep="\t")
    ids = train.pair_ids(table.filepath.tolist(), table.title.tolist())[:, 0].tolist()
    found = 0
    for call in calls:
        grey_B = [greys[ids.index(one)] for one in call["image_id"].tolist()]
        masks = call["pairs"]
        marked = masks.connected_2BB if action == "connect" else masks.dropped_2BB
        assert not (masks.dropped_2BB if action == "connect" else masks.connected_2BB).any()
        for _, anchor, partner in marked.nonzero().tolist():
            assert abs(grey_B[anchor] - grey_B[partner]) <= 40
            found += 1
    assert found
    if more:  # the two calls of a step get the same verdicts
        assert all(one["pairs"] is two["pairs"] for one, two in zip(calls[::2], calls[1::2], strict=True))


def test_without_lavis_it_is_reported(monkeypatch):
    monkeypatch.setitem(sys.modules, "lavis", None)
    monkeypatch.delitem(JUDGES, "mafa_blip2", raising=False)  # as another test may have registered it
    monkeypatch.setattr("lavis_mafa.register", lambda: __import__("lavis"))
    with pytest.raises(ValueError, match="needs LAVIS"):
        train._con_d(train.parser().parse_args(["--mafa-con-d", "arch=of_lavis"]), torch.device("cpu"))


def test_a_packaged_con_d_judges_images_or_their_tokens(data, tmp_path, monkeypatch):
    """Kept on disk, the tower's tokens give the verdicts that the images give."""
    pytest.importorskip("lavis", reason="Con-D is LAVIS'")
    con_d, scored = ["--mafa-con-d", "arch=mafa_albef", "model_type=scenes_con_d"], []
    plain = ConnectionMiner._score

    def score(self, batch, image_M, text_M):
        scored[-1].append(plain(self, batch, image_M, text_M))
        return scored[-1][-1]

    monkeypatch.setattr(ConnectionMiner, "_score", score)
    for name, more in (("looks", ()), ("reads", ("--mafa-con-d-cache-tokens",))):
        scored.append([])
        argv = launch.arguments(data / "train.csv", tmp_path / name, *con_d, *more, "--epochs", 1)
        calls = launch.run(monkeypatch, argv)
        assert all(call["pairs"].connected_2BB.shape == (2, 4, 4) for call in calls)
    assert len(scored[0]) > 0
    for looked, read in zip(*scored, strict=True):
        torch.testing.assert_close(read, looked, atol=2e-3, rtol=0)  # kept in float16


@pytest.mark.parametrize("shards", [False, True])
def test_captions_judge_rows_and_what_streams_by(encoder_folder, shards):
    """Without LAVIS. Rows: every caption of an image is known; shards: the one beside it in the batch."""
    words = ["--mafa-con-d", "arch=captions", f"encoder={encoder_folder}", "--mafa-con-d-action", "connect"]
    training = train.Training(train.parser().parse_args(words))
    rows = SimpleNamespace(images=["a", "b", "a"], captions=["a dog runs", "the red car", "the red car"])
    run = SimpleNamespace(device="cpu", logs="logs", name="run", workers=0)
    answers = training._answers(run, None if shards else rows)
    ids_N2 = train.pair_ids(rows.images, rows.captions)
    samples = {"caption": rows.captions[:2], "image_id": ids_N2[:2, 0], "text_id": torch.tensor([1, 2])}
    assert answers(samples, torch.eye(2), torch.eye(2))["pairs"].connected_2BB.shape == (2, 2, 2)
    own = answers.judge.miner.scorer.own
    assert answers.view is None and (own is None if shards else own[int(ids_N2[0, 0])] == rows.captions[::2])


def test_tokens_without_a_con_d_are_reported():
    with pytest.raises(ValueError, match="give that, too"):
        train.Training(train.parser().parse_args(["--mafa-con-d-cache-tokens"]))


def test_tokens_of_shards_are_reported(monkeypatch):
    monkeypatch.setattr(train, "_con_d", lambda *_: ByGrey())
    options = train.parser().parse_args(["--mafa-con-d", "arch=any", "--mafa-con-d-cache-tokens"])
    with pytest.raises(ValueError, match="shards have none"):
        train.Training(options)._answers(SimpleNamespace(device="cpu"))
