"""open_clip's own training through our launcher, on generated images and a tiny model."""

import logging
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import open_clip
import pandas as pd
import pytest
import torch
from PIL import Image
from torch.utils.data import get_worker_info

from lavis_mafa.common.loading import WorkerError
from lavis_mafa.core.embeddings import EmbeddingStore
from lavis_mafa.core.neighbors import float32
from lavis_mafa.core.plan import Plan
from lavis_mafa.openclip_train import launcher as train
from lavis_mafa.openclip_train.arguments import con_d_rule, parser
from lavis_mafa.openclip_train.csv_feed import pair_ids
from lavis_mafa.openclip_train.images import CsvImages

from . import launch
from .launch import BATCH, EPOCHS
from .tiny import register_tiny

ROOT = Path(__file__).resolve().parents[2]
IMAGES = 13  # two captions an image: 26 rows, six batches of 4, two rows left over


@pytest.fixture(autouse=True)
def quiet_logging():
    before = logging.getLogger().handlers[:]
    yield
    logging.getLogger().handlers = before


PLUGIN = """
import torch
from lavis_mafa.scorers.registry import JUDGES, Judge

class Always:
    fingerprint = "always"
    def score(self, batch, image_K, text_K):
        return torch.ones(len(image_K))

JUDGES.add("always")(Judge(lambda request: Always(), (), costs="nothing"))
"""
WITHOUT_LAVIS = """
import sys
from pathlib import Path
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "lavis":
            raise ModuleNotFoundError(f"{name} is blocked", name=name)
sys.meta_path.insert(0, Blocked())
from lavis_mafa.openclip_train import launcher
from tests.openclip.tiny import register_tiny
register_tiny(Path(sys.argv[1]), "tiny-train")
sys.exit(launcher.main(sys.argv[2:]))
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    register_tiny(folder, "tiny-train")
    rng, rows = np.random.default_rng(0), []
    for number in range(IMAGES):
        path = folder / f"{number}.png"
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(path)
        second = "the same of every third" if number % 3 == 0 else f"no {number}"
        rows += [(str(path), f"image number {number}"), (str(path), second)]
    pd.DataFrame(rows, columns=["filepath", "title"]).to_csv(folder / "train.csv", sep="\t", index=False)
    torch.manual_seed(3)
    torch.save(open_clip.create_model("tiny-train").state_dict(), folder / "judge.pt")
    return folder


def arguments(data, logs, *more):
    return launch.arguments(data / "train.csv", logs, *more)


def run(monkeypatch, data, logs, *more):
    return launch.run(monkeypatch, arguments(data, logs, *more))


def plans(logs):
    return [Plan.load(logs / "run" / "mafa" / f"plan_{epoch}.npz") for epoch in range(EPOCHS)]


def test_every_epoch_follows_its_plan_and_the_loss_knows_the_ids(monkeypatch, data, tmp_path):
    calls = run(monkeypatch, data, tmp_path)
    made = plans(tmp_path)
    assert [plan.sampling for plan in made] == ["random", "grit", "grit"]
    assert [plan.stats["distinct_images"] for plan in made] == [4.0, 4.0, 4.0]
    assert set(made[0].untrained) <= set(made[1].order_N[: 2 * BATCH])  # what was left out leads
    table = pd.read_csv(data / "train.csv", sep="\t")
    ids_N2 = pair_ids(table.filepath.tolist(), table.title.tolist())
    assert len(calls) == EPOCHS * 6
    for step, call in enumerate(calls):
        rows = made[call["epoch"]].batches(0)[step % 6]
        assert torch.stack([call["image_id"], call["text_id"]], dim=1).equal(ids_N2[rows])
        assert call["alpha"] == (0.5 if call["epoch"] else 0.0)
        assert call["contrastive_loss"].isfinite()
    assert (tmp_path / "run" / "checkpoints" / f"epoch_{EPOCHS}.pt").exists()


def test_grit_batches_hold_look_alikes(monkeypatch, data, tmp_path):
    """The features of epoch 0, as stored, are closer inside the batches of epoch 1 than in random ones."""
    run(monkeypatch, data, tmp_path, "--epochs", 2, "--mafa-siblings", "free")
    folder = tmp_path / "run" / "mafa"
    plan = Plan.load(folder / "plan_1.npz")
    found = EmbeddingStore(folder / "embeddings", 2 * IMAGES, 16, plan.fingerprint).gather(0)
    assert len(found.index) == 24

    def similarity(batches):
        known = [rows for rows in batches if (found.place_N[rows] >= 0).all()]
        return np.mean([(float32(found.image(rows)) @ float32(found.text(rows)).T).mean() for rows in known])

    rng = np.random.default_rng(0)
    random = np.mean([similarity(rng.permutation(found.index).reshape(-1, BATCH)) for _ in range(50)])
    assert similarity(plan.batches(0)) > random


def test_gradient_accumulation_masks_over_the_whole_accumulated_batch(monkeypatch, data, tmp_path):
    calls = run(monkeypatch, data, tmp_path, "--accum-freq", 2)
    assert len(calls) == EPOCHS * 6  # each of a step's two batches is differentiated in turn
    table = pd.read_csv(data / "train.csv", sep="\t")
    ids_N2 = pair_ids(table.filepath.tolist(), table.title.tolist())
    for step, call in enumerate(calls):
        plan = Plan.load(tmp_path / "run" / "mafa" / f"plan_{call['epoch']}.npz")
        rows = plan.batches(0)[step % 6 // 2 * 2 :][:2].reshape(-1)
        assert call["n"] == 2 * BATCH
        assert torch.stack([call["image_id"], call["text_id"]], dim=1).equal(ids_N2[rows])
    store = EmbeddingStore(tmp_path / "run" / "mafa" / "embeddings", 2 * IMAGES, 16, plan.fingerprint)
    assert len(store.gather(EPOCHS - 1).shards[0]) == 24  # each row once, not once a call


def trained(logs):
    return torch.load(logs / "run" / "checkpoints" / "epoch_1.pt", weights_only=False)["state_dict"]


def test_an_accumulated_batch_is_learned_from_as_one(monkeypatch, data, tmp_path):
    """Two halves of the data are one step, in which siblings of different halves are positives of each other."""
    step = ["--mafa-sampling", "random", "--mafa-siblings", "free", "--mafa-alpha-from-epoch", 0, "--epochs", 1]
    step += ["--skip-scheduler", "--beta1", 0, "--beta2", 0, "--eps", 1, "--lr", 1]  # near the gradient
    halves = run(monkeypatch, data, tmp_path / "halves", *step, "--accum-freq", 2, "--batch-size", IMAGES)
    monkeypatch.undo()
    (whole,) = run(monkeypatch, data, tmp_path / "whole", *step, "--batch-size", 2 * IMAGES)
    image_id = whole["image_id"]
    assert (image_id[:IMAGES, None] == image_id[None, IMAGES:]).any()
    for half in halves:
        assert half["image_id"].equal(image_id)
        torch.testing.assert_close(half["contrastive_loss"], whole["contrastive_loss"], rtol=1e-5, atol=1e-6)
    learned = trained(tmp_path / "halves")
    for name, weight in trained(tmp_path / "whole").items():
        if name != "logit_scale":  # in every part the whole loss moves it: so it is in open_clip
            torch.testing.assert_close(learned[name], weight, rtol=1e-3, atol=1e-5)


def test_a_bi_encoder_and_connections_reach_the_loss(monkeypatch, data, tmp_path):
    judge = ["--mafa-bi-encoder", "tiny-train", "--mafa-bi-encoder-pretrained", data / "judge.pt"]
    listed = pd.read_csv(data / "train.csv", sep="\t").head(3)
    listed.assign(weight=[0.5, 0.75, 1]).to_csv(tmp_path / "matches.csv", sep="\t", index=False)
    calls = run(monkeypatch, data, tmp_path, *judge, "--mafa-connections", tmp_path / "matches.csv")
    (file,) = (tmp_path / "run" / "mafa").glob("bi_encoder_image_*.npy")
    table = np.load(file)
    rows = plans(tmp_path)[1].batches(0)[0]
    assert np.allclose(calls[6]["judge_image_features"].numpy(), table[rows], atol=1e-3)
    assert calls[0]["loss"].connections.equal(pair_ids(listed.filepath.tolist(), listed.title.tolist()))
    assert calls[0]["loss"].connection_weight.tolist() == [0.5, 0.75, 1]


def test_connections_may_spell_an_image_otherwise_but_are_in_the_data(monkeypatch, data, tmp_path):
    listed = pd.read_csv(data / "train.csv", sep="\t").head(3)
    monkeypatch.chdir(data)
    relative = listed.assign(filepath=[Path(path).name for path in listed.filepath])
    relative.to_csv(tmp_path / "relative.csv", sep="\t", index=False)
    calls = run(monkeypatch, data, tmp_path, "--mafa-connections", tmp_path / "relative.csv")
    assert calls[0]["loss"].connections.equal(pair_ids(listed.filepath.tolist(), listed.title.tolist()))
    for column, value in (("filepath", "nope.png"), ("title", "a caption of nobody")):
        listed.assign(**{column: value}).to_csv(tmp_path / "foreign.csv", sep="\t", index=False)
        with pytest.raises(ValueError, match=r"foreign\.csv: none of its 3 pairs has image and caption"):
            train.main(arguments(data, tmp_path / "foreign", "--mafa-connections", tmp_path / "foreign.csv"))


def test_bounds_of_a_judge_are_read_and_other_keys_refused(data, tmp_path):
    bounds = ["--mafa-con-d-low", "0.2", "--mafa-con-d-high", "0.3"]
    options = parser().parse_args(["--mafa-con-d", "arch=captions", *bounds])
    assert (con_d_rule(options).low, con_d_rule(options).high) == (0.2, 0.3)
    with pytest.raises(ValueError, match=r"unknown key --mafa-con-d\.low"):
        train.main(arguments(data, tmp_path, "--mafa-con-d", "arch=captions", "encoder=x", "low=0.1"))


def test_a_plugins_judge_needs_no_lavis(data, tmp_path):
    (tmp_path / "shared_judge.py").write_text(PLUGIN)
    command = [sys.executable, "-W", "ignore", "-c", WITHOUT_LAVIS, str(tmp_path), *arguments(data, tmp_path / "logs")]
    command += ["--mafa-plugins", "shared_judge", "--mafa-con-d", "arch=always"]
    path = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=ROOT, env=path)
    assert done.returncode == 0, done.stderr[-2000:]


def test_a_resumed_run_goes_on_from_the_stored_features(monkeypatch, data, tmp_path):
    constant = ["--lr-scheduler", "const"]  # a schedule over two epochs is another than one over three
    run(monkeypatch, data, tmp_path / "whole", *constant)
    monkeypatch.undo()
    run(monkeypatch, data, tmp_path / "cut", *constant, "--epochs", 2)
    monkeypatch.undo()
    rest = run(monkeypatch, data, tmp_path / "cut", *constant, "--resume", "latest")
    assert {call["epoch"] for call in rest} == {2}
    assert (plans(tmp_path / "cut")[2].order_N == plans(tmp_path / "whole")[2].order_N).all()


def test_random_batches_train_on_what_the_epoch_before_left_out(monkeypatch, data, tmp_path):
    run(monkeypatch, data, tmp_path, "--mafa-sampling", "random", "--mafa-alpha", 0)
    made = plans(tmp_path)
    assert [plan.sampling for plan in made] == ["random"] * EPOCHS
    assert set(made[0].untrained) <= set(made[1].order_N[: 2 * BATCH])


def test_s_itc_without_hard_batches_is_warned_of(monkeypatch, data, tmp_path):
    run(monkeypatch, data, tmp_path, "--mafa-sampling", "random", "--epochs", 1)
    assert "Table 5" in (tmp_path / "run" / "out.log").read_text()


def test_siglip_trains_too(monkeypatch, data, tmp_path):
    calls = run(monkeypatch, data, tmp_path, "--siglip", "--epochs", 2, "--mafa-sampling", "random")
    assert type(calls[0]["loss"]).__name__ == "MafaSigLipLoss"
    assert not (tmp_path / "run" / "mafa" / "embeddings").exists()


def test_what_is_not_there_is_reported(data, tmp_path):
    with pytest.raises(ValueError, match="csv or webdataset"):
        train.main([*arguments(data, tmp_path / "a", "--train-num-samples", 8), "--dataset-type", "synthetic"])
    with pytest.raises(ValueError, match="bi-encoder-pretrained"):
        train.main(arguments(data, tmp_path / "b", "--mafa-bi-encoder", "tiny-train"))
    with pytest.raises(ValueError, match="--mafa-guide-margin is now called --mafa-bi-encoder-margin"):
        train.main(arguments(data, tmp_path / "b", "--mafa-guide-margin", "0.1"))
    with pytest.raises(ValueError, match="--mafa-bi-encoder-margin is about --mafa-bi-encoder: give that, too"):
        train.main(arguments(data, tmp_path / "b", "--mafa-bi-encoder-margin", "0.1"))
    with pytest.raises(ValueError, match="--mafa-search-space 2 is below --batch-size"):
        train.main(arguments(data, tmp_path / "b", "--mafa-search-space", "2"))
    judge = ["--mafa-bi-encoder", "tiny-train", "--mafa-bi-encoder-pretrained", data / "judge.pt"]
    with pytest.raises(ValueError, match="no create_task"), train.replaced(train, create_task=None):
        pass
    with pytest.raises(ValueError, match="give one of them"):
        train.main(arguments(data, tmp_path / "c", *judge, "--mafa-con-d", "arch=mafa_blip2"))


@pytest.mark.parametrize("file", ["gone.csv", "train.csv"])
def test_a_wrong_table_ends_in_one_line_before_a_model_is_built(data, tmp_path, file):
    words = launch.arguments(data / file, tmp_path, "--csv-caption-key", "text")
    command = [sys.executable, "-W", "ignore", "-m", "lavis_mafa.openclip.train", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=ROOT)
    assert done.returncode == 1 and done.stdout == "" and not (tmp_path / "run").exists()
    (line,) = done.stderr.splitlines()
    expected = "gone.csv cannot be read as CSV" if file == "gone.csv" else "train.csv has no column 'text', only"
    assert line.startswith("error: ") and expected in line


def test_bf16_trains_too(monkeypatch, data, tmp_path):
    calls = run(monkeypatch, data, tmp_path, "--precision", "amp_bf16", "--epochs", 2)
    assert all(
        call["contrastive_loss"].isfinite() and call["contrastive_loss"].dtype == torch.float32 for call in calls
    )
    assert calls[-1]["image"].dtype == torch.bfloat16


def test_a_worker_that_is_killed_is_named_with_what_it_read(monkeypatch, data, tmp_path):
    opened = CsvImages.open

    def killed(self, path):
        if path.endswith("/3.png") and get_worker_info() is not None:
            os.kill(os.getpid(), signal.SIGKILL)
        return opened(self, path)

    monkeypatch.setattr(CsvImages, "open", killed)
    with pytest.raises(WorkerError, match=r"was ended by the signal 'Killed' while it read .*/3\.png"):
        train.main(arguments(data, tmp_path, "--workers", 1))


def test_a_second_training_of_the_same_name_is_refused(data, tmp_path):
    """open_clip refuses a name that is taken, but not where it resumes."""
    train.main(arguments(data, tmp_path, "--epochs", 1))
    code = "import sys; from pathlib import Path; from lavis_mafa.common.folders import held\n"
    code += "with held(Path(sys.argv[1]), 'cache', 'x'): print(flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", code, str(tmp_path / "run" / "mafa")]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, cwd=ROOT, **pipes) as first:
        first.stdout.readline()
        with pytest.raises(ValueError, match=f"--logs and --name: .*mafa is in use by process {first.pid}"):
            train.main(arguments(data, tmp_path, "--epochs", 2, "--resume", "latest"))
    train.main(arguments(data, tmp_path, "--epochs", 2, "--resume", "latest"))
