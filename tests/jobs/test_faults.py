"""A run killed anywhere and started again ends as one that was not: losses, plans, connections, weights, bit for bit.

A run is killed again and again, in the order in which it reaches the points, and each life goes on from what the one
before has left (fault_server.py).
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from omegaconf import OmegaConf
from safetensors.numpy import load_file

from lavis_mafa.common.artifacts import MARKER
from lavis_mafa.common.stopping import STATUS
from lavis_mafa.core.connections import ConnectionStore
from lavis_mafa.core.plan import Plan
from lavis_mafa.data.scenes.dataset import scenes_table
from lavis_mafa.runners import checkpoint
from tests.jobs import fault_server
from tests.jobs.commands import ROOT, rows
from tests.jobs.conftest import StartLife
from tests.ranks import as_torchrun

SCENES = "projects/mafa/blip2/pretrain_stage1_scenes.yaml"
N, BATCH, EPOCHS = 50, 8, 2  # 6 steps an epoch, and 2 records that are left over
SMALL = [
    f"datasets.scenes.splits.train.n={N}",
    "datasets.scenes.splits.val.n=12",
    "datasets.scenes.splits.test.n=12",
    f"run.batch_size_train={BATCH}",
    f"run.max_epoch={EPOCHS}",
    "run.search_space=20",
    "run.k_test=2",
    "run.warmup_steps=2",
    "run.save_every_steps=2",
    "run.cache_tokens=false",
    "run.keep_checkpoints=3",
]
AUGMENTED = ["datasets.scenes.vis_processor.train={name: blip_image_train, image_size: 48, mean: 0.5, std: 0.5}"]
POINTS = [  # in the order of the run; calls are counted anew in every life
    ("before the first plan", "lavis_mafa.core.plan:Plan.save", 1, "before"),
    ("mid plan", "lavis_mafa.core.plan:Plan.save", 1, "torn"),
    ("mid-step, after the gradients", "lavis_mafa.tasks.loop:_update", 2, "before"),
    ("mid-step, after the weights", "lavis_mafa.tasks.loop:_update", 2, "after"),
    ("between store and checkpoint", "lavis_mafa.runners.checkpoint:save", 1, "before"),
    ("mid checkpoint", "lavis_mafa.runners.checkpoint:write", 1, "torn"),
    ("after a checkpoint, old ones not yet dropped", "lavis_mafa.runners.checkpoint:write", 2, "after"),
    ("mid-journal", "lavis_mafa.runners.journal:Journal.step", 1, "after"),
    ("mid-validation", "lavis_mafa.evaluation.retrieval:encode_gallery", 1, "after"),
    ("mid best weights", "lavis_mafa.runners.checkpoint:write", 1, "torn"),
    ("between best weights and stores", "lavis_mafa.runners.evaluation:Evaluation.keep_best", 1, "after"),
    ("between store and plan", "lavis_mafa.core.embeddings:EmbeddingStore.gather", 1, "after"),
    ("mid plan of the next epoch", "lavis_mafa.core.plan:Plan.save", 1, "torn"),
    ("between plan and checkpoint", "lavis_mafa.core.plan:Plan.save", 1, "after"),
    ("mid merge of connections", "lavis_mafa.core.runs:Run.save", 1, "torn"),
    ("between merge and commit", "lavis_mafa.core.connections:ConnectionStore.merge", 1, "after"),
    ("between commit and checkpoint", "lavis_mafa.core.connections:ConnectionStore.commit", 1, "after"),
    ("at the start of an epoch", "lavis_mafa.core.embeddings:EmbeddingStore.begin_epoch", 1, "after"),
    ("between store and checkpoint again", "lavis_mafa.runners.checkpoint:save", 2, "before"),
    ("mid final weights", "lavis_mafa.runners.evaluation:Evaluation.keep_final", 1, "torn"),
    ("mid-evaluation", "lavis_mafa.evaluation.retrieval:match_scores", 1, "after"),
    ("mid report", "lavis_mafa.runners.report:draw_curves", 1, "after"),
]

Life = Callable[..., int]


@pytest.fixture(scope="module")
def life(start_life: StartLife) -> Life:
    """life(folder, *options, kill=None, config=…, small=…) → exit status; what it printed stands in folder.log."""

    def one(
        folder: Path, *options: str, kill: Any = None, config: str | Path = SCENES, small: Sequence[str] = SMALL
    ) -> int:
        return start_life(config, [*small, f"run.output_dir={folder}", *options], f"{folder}.log", kill)

    return one


def whole(life: Life, folder: Path, *options: str, **config: Any) -> Path:
    assert life(folder, *options, **config) == 0, log_of(folder)
    return folder


def log_of(folder: Path) -> str:
    return Path(f"{folder}.log").read_text()[-3000:]


@pytest.fixture(scope="module")
def unbroken(life: Life, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return whole(life, tmp_path_factory.mktemp("unbroken") / "run")


def ends_alike(mine: Path, other: Path, checkpoints: int = 3) -> None:
    for name in ("steps.jsonl", "epochs.jsonl"):
        assert rows(mine / name) == rows(other / name)
    for epoch in range(EPOCHS + 1):
        orders = [np.load(folder / f"plan_{epoch}.npz")["order"] for folder in (mine, other)]
        np.testing.assert_array_equal(*orders)
    same(load_file(mine / "model.safetensors"), load_file(other / "model.safetensors"))
    names = [sorted(path.name for path in folder.glob("checkpoint_*")) for folder in (mine, other)]
    assert names[0] == names[1] and len(names[0]) == checkpoints + 1
    for name in names[0]:
        contents = [torch.load(folder / name, weights_only=True) for folder in (mine, other)]
        for content in contents:
            content.pop("config", None)  # it names the folder
        same(*contents)
    same(*(connections(folder) for folder in (mine, other)))
    assert {path.name for path in files(mine)} == {path.name for path in files(other)}


def files(folder: Path) -> list[Path]:
    """Every file but TensorBoard's, of which each life writes its own."""
    return [path for path in folder.rglob("*") if path.is_file() and path.parent.name != "tensorboard"]


def written(folder: Path) -> dict[Path, int]:
    """When each was written, but for the file that says who is at work there."""
    return {path: path.stat().st_mtime_ns for path in files(folder) if path.name != MARKER}


def connections(folder: Path) -> Any:
    header = folder / "connections" / "store.json"
    if not header.exists():
        return None
    store = ConnectionStore(folder / "connections", json.loads(header.read_text())["fingerprint"])
    return store.to_frame().to_dict("list")


def same(mine: Any, other: Any) -> None:
    """Equal to the bit, in whatever is nested."""
    assert type(mine) is type(other)
    if isinstance(mine, dict):
        assert mine.keys() == other.keys()
        for key, value in mine.items():
            same(value, other[key])
    elif isinstance(mine, (torch.Tensor, np.ndarray)):
        np.testing.assert_array_equal(np.asarray(mine), np.asarray(other))
    elif isinstance(mine, (list, tuple)) and len(mine) == len(other):
        for one, another in zip(mine, other, strict=True):
            same(one, another)
    else:
        assert mine == other


def test_a_run_killed_at_every_named_point_ends_as_an_unbroken_one(life: Life, unbroken: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    for name, *kill in POINTS:
        assert life(folder, kill=kill) == -signal.SIGKILL, f"{name}: not reached\n{log_of(folder)}"
        if kill[0].endswith("Journal.step"):
            tear_last_line(folder / "steps.jsonl")
    ends_alike(whole(life, folder), unbroken)
    assert drawn(folder) == [(epoch * 6 + step) for epoch in range(EPOCHS) for step in range(6)]


def tear_last_line(path: Path) -> None:
    """What a kill leaves of a line that was being written."""
    with open(path, "a") as file:
        file.write('{"epoch": 0, "step": 5, "lo')


def drawn(folder: Path) -> list[int]:
    """The steps of TensorBoard's loss curve."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tensorboard")).Reload()
    return [event.step for event in events.Scalars("train/loss")]


VARIANTS = {
    # name: (options of both runs, options of the killed one alone)
    "con_d, augmented, accumulated, workers": (["run.accum_grad_iters=2", *AUGMENTED], ["run.num_workers=2"]),
    "random, no scorer": (["run.sampling=random", "model.mafa.preset=none", "run.con_d=null"], []),
    "verdicts from a file, M=all": (["run.search_space=all"], []),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_a_run_killed_at_random_moments_ends_as_an_unbroken_one(life: Life, tmp_path: Path, name: str) -> None:
    both, killed = VARIANTS[name]
    config = from_verdicts(tmp_path) if name.startswith("verdicts") else SCENES
    folder, dead = tmp_path / "killed", 0
    for moment in np.random.default_rng(len(name)).uniform(0.05, 1.0, 3):
        dead += life(folder, *both, *killed, kill=["clock", moment], config=config) == -signal.SIGPROF
    assert dead >= 2, log_of(folder)
    whole(life, folder, *both, *killed, config=config)
    ends_alike(folder, whole(life, tmp_path / "unbroken", *both, config=config))


@pytest.mark.parametrize("name", VARIANTS)
def test_a_run_that_is_asked_to_stop_anywhere_ends_as_an_unbroken_one(life: Life, tmp_path: Path, name: str) -> None:
    both, stopped = VARIANTS[name]
    config = from_verdicts(tmp_path) if name.startswith("verdicts") else SCENES
    random = np.random.default_rng(len(name))

    def one(folder: Path, signal_name: str | None) -> bool:
        kill = signal_name and [signal_name, random.uniform(0, 0.6)]
        late = ["run.save_every_steps=0", *both, *stopped]
        if (status := life(folder, *late, kill=kill, config=config)) == 0:
            return False
        assert status == STATUS, log_of(folder)
        assert f"{signal_name}: the run ends after this step" in log_of(folder)
        assert "run.resume_ckpt_path=auto goes on from there" in log_of(folder)
        return True

    other = whole(life, tmp_path / "unbroken", "run.save_every_steps=0", *both, config=config)
    stopped_again_and_again(tmp_path / "stopped", one, ("SIGTERM", "SIGINT", "SIGUSR1"), other)


def stopped_again_and_again(
    folder: Path, one: Callable[[Path, str | None], bool], signals: Sequence[str], other: Path
) -> None:
    """one(run, signal) → whether it came in time. Each run goes on until it ends, as the other one; a signal that its
    run was too quick for is sent to the next."""
    left = [*signals]
    for number in range(5):
        run = folder.with_name(f"{folder.name}{number}")
        while one(run, left[0] if left else None):
            left.pop(0)
        ends_with_the_same(run, other)
        if not left:
            return
    pytest.fail(f"no signal came in time: {left} are left")


def two_ranks(folder: Path, *signals: tuple[str, int, float]) -> list[int]:
    """The exit status of each; a signal is a name, the rank that it reaches, and seconds from the first epoch on."""
    options = [*SMALL, "run.save_every_steps=0", "datasets.scenes.splits.train.n=100", f"run.output_dir={folder}"]
    return as_torchrun(2, one_of_two_ranks, options, signals)


def one_of_two_ranks(options: list[str], signals: Sequence[tuple[str, int, float]]) -> int:
    from lavis_mafa.train import main

    for name, rank, seconds in signals:
        if os.environ["RANK"] == str(rank):
            fault_server.arm(name, seconds)
    sys.argv = ["train", "--cfg-path", str(ROOT / SCENES), "--options", *options]
    try:
        main()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 1
    except RuntimeError:
        return 1
    finally:
        for name, *_ in signals:  # one that is late
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    return 0


def test_signals_to_one_rank_at_random_moments_stop_both_at_the_same_step(tmp_path: Path) -> None:
    """Those that come after the training, in its evaluation, end the run with what it has."""
    random = np.random.default_rng(0)

    def one(folder: Path, name: str | None) -> bool:
        before = checkpoint.list_checkpoints(folder)[-1:]
        signals = [(name, int(random.integers(2)), random.uniform(0, 0.4))] if name else []
        statuses = two_ranks(folder, *signals)
        stopped = statuses == [STATUS, STATUS] and checkpoint.list_checkpoints(folder)[-1:] != before
        assert stopped or not signals or STATUS in statuses or statuses == [0, 0], statuses
        if not stopped and statuses != [0, 0]:
            assert two_ranks(folder) == [0, 0]
        return stopped

    assert two_ranks(tmp_path / "unbroken") == [0, 0]
    stopped_again_and_again(tmp_path / "stopped", one, ("SIGUSR1", "SIGTERM", "SIGINT") * 2, tmp_path / "unbroken")


def test_a_run_may_stop_at_the_last_step_of_an_epoch_before_its_validation(
    life: Life, unbroken: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    assert life(folder, kill=["lavis_mafa.tasks.loop:_update", 6, "SIGTERM"]) == STATUS
    assert newest(folder).name == "checkpoint_e0000_s0000006.pth"
    assert not (folder / "epochs.jsonl").read_text(), "nothing was validated"
    ends_alike(whole(life, folder), unbroken)


def ends_with_the_same(mine: Path, other: Path) -> None:
    """As `ends_alike`, where the last checkpoints alone have one name; those before it name parts that were merged."""
    for folder in (mine, other):
        merged = folder.glob("connections/part_*")
        for path in (*checkpoint.list_checkpoints(folder)[:-1], *merged):
            path.unlink()
    ends_alike(mine, other, checkpoints=1)


def from_verdicts(folder: Path) -> Path:
    """The config with offline verdicts in the place of Con-D."""
    config = OmegaConf.load(ROOT / SCENES)
    config.run.con_d = {"arch": "file", "path": str(verdicts(folder))}
    OmegaConf.save(config, folder / "run.yaml")
    return folder / "run.yaml"


def verdicts(folder: Path) -> Path:
    """A connections.parquet that calls every seventh pair of the training data a connection."""
    table, _, _ = scenes_table(N, seed=1, match_share=0.002, captions_a_scene=2)
    image, text = np.divmod(np.arange(N * len(table.text_id))[::7], len(table.text_id))
    columns = {"image_id": table.image_id[image], "text_id": table.text_id[text], "p": np.full(len(image), 0.9)}
    path = folder / "connections.parquet"
    pq.write_table(pa.table({**columns, "verdict": ["connection"] * len(image)}), path)
    return path


BAD_IMAGES = """
model: {{arch: mafa_blip2, model_type: scenes, mafa: {{action: keep}}}}
datasets: {{image_text: {{images: {0}, annotations: {{train: {0}/train.json}}, on_bad_image: replace, vis_processor: {{
  train: {{name: blip_image_eval, image_size: 48, mean: 0.5, std: 0.5}}}}}}}}
run: {{batch_size_train: 8, max_epoch: 1, warmup_steps: 1, save_every_steps: 1, test_splits: [], num_workers: 2,
  resume_ckpt_path: auto}}
"""


def test_bad_images_found_before_a_kill_are_named_after_it(life: Life, tmp_path: Path) -> None:
    table, open_scene, _ = scenes_table(24, seed=5)
    for record in range(24):
        open_scene(record).save(tmp_path / f"{record}.png")
        if record < 12:
            cut(tmp_path / f"{record}.png")
    lines = [{"image": f"{record}.png", "caption": table.caption(2 * record)} for record in range(24)]
    (tmp_path / "train.json").write_text(json.dumps(lines))
    (config := tmp_path / "run.yaml").write_text(BAD_IMAGES.format(tmp_path))
    folder = tmp_path / "run"
    kill = ["lavis_mafa.tasks.loop:_update", 3, "before"]
    assert life(folder, kill=kill, config=config, small=[]) == -signal.SIGKILL, log_of(folder)
    whole(life, folder, config=config, small=[])
    assert rows(folder / "epochs.jsonl")[0]["bad_images"] == 12
    assert sorted((folder / "bad_images_rank0.txt").read_text().split()) == sorted(f"{n}.png" for n in range(12))


# ---- what cannot be gone on with


def refused(life: Life, folder: Path, *options: str) -> str:
    assert life(folder, *options) == 1, log_of(folder)
    return log_of(folder)


@pytest.fixture
def copied(unbroken: Path, tmp_path: Path) -> Path:
    """A finished run with the checkpoints (1, 2), (1, 4) and (2, 0)."""
    folder = tmp_path / "run"
    subprocess.run(["cp", "-r", unbroken, folder], check=True)
    return folder


def newest(folder: Path, back: int = 1) -> Path:
    return sorted(folder.glob("checkpoint_e*.pth"))[-back]


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def flip(path: Path) -> None:
    """One bit of a weight, which only a checksum tells."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [cut, flip, lambda path: path.write_bytes(b"")])
def test_a_torn_checkpoint_names_the_newest_whole_one(life: Life, copied: Path, unbroken: Path, damage: Any) -> None:
    damage(newest(copied))
    instead = f"the newest intact checkpoint is {newest(copied, 2)}: set run.resume_ckpt_path to it"
    assert "damaged" in (message := refused(life, copied)) and instead in message
    if damage is cut:
        whole(life, copied, f"run.resume_ckpt_path={newest(copied, 2)}")
        ends_alike(copied, unbroken)


@pytest.mark.parametrize(
    ("torn", "message", "back"),
    [
        ("plan_2.npz", "plan_2.npz is damaged or not a readable plan", 2),
        ("plan_1.npz", None, 1),
        ("connections/merged_2.npy", "merged_2.npy is damaged or not a readable run", 2),
        ("connections/merged_1.npy", None, 1),
    ],
)
def test_a_torn_plan_or_store_names_a_checkpoint_that_needs_it_not(
    life: Life, copied: Path, torn: str, message: str | None, back: int
) -> None:
    cut(copied / torn)
    if message is None:  # the newest checkpoint does not need it
        whole(life, copied)
        return
    found = refused(life, copied)
    assert message in found and f"the newest intact checkpoint is {newest(copied, back)}" in found


def test_a_torn_embedding_store_is_reported(life: Life, copied: Path) -> None:
    newest(copied).unlink()
    cut(next((copied / "embeddings").glob("*odd*")))
    assert "is incomplete: it has fewer than 32 rows" in (message := refused(life, copied))
    assert f"the newest intact checkpoint is {copied}/checkpoint_e0001_s0000002.pth" in message  # of 16 rows


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["datasets.scenes.splits.train.seed=99"], "data: the checkpoint has"),
        (["model.vocab=VOCAB"], "vocabulary: the checkpoint has"),
        (["model.qformer.num_hidden_layers=2"], "network: the checkpoint has 'MafaBlip2, "),
        (["model.mafa.action=keep"], "scorer: the checkpoint has"),
        (["run.batch_size_train=9"], "batch_size is 8, expected 9"),
    ],
)
def test_a_run_of_something_else_is_reported(
    life: Life, unbroken: Path, tmp_path: Path, options: list[str], message: str
) -> None:
    words = (ROOT / "lavis_mafa" / "data" / "scenes" / "vocab.txt").read_text().splitlines()
    (tmp_path / "vocab.txt").write_text("\n".join([*words[:-2], words[-1], words[-2]]) + "\n")
    before = written(unbroken)
    found = refused(life, unbroken, *(option.replace("VOCAB", f"{tmp_path}/vocab.txt") for option in options))
    assert "belongs to another run" in found and message in found
    assert "no other checkpoint there is intact and belongs to this run: choose another run.output_dir" in found
    assert before == written(unbroken), "a refused run changes nothing"


def test_a_resume_with_other_settings_is_refused_or_written_down(life: Life, unbroken: Path, tmp_path: Path) -> None:
    other = ["run.seed=43", "run.init_lr=0.002", "run.sampling=random", "model.mafa.targets=one_hot", *AUGMENTED]
    found = refused(life, unbroken, *other)
    for line in (
        "run.seed: was 42, is 43",
        "run.init_lr: was 0.001, is 0.002",
        "model.mafa.targets: was None, ",
    ):
        assert f"\n  {line}" in found
    assert "run.sampling: was 'grit', is 'random'" in found and "vis_processor.train.name: was" in found
    folder = whole(life, tmp_path / "run", "run.stop_epoch=1")
    whole(life, folder, "run.init_lr=0.002", "run.resume_changes=allow")
    whole(life, folder, "run.init_lr=0.002")  # the checkpoint has it now
    settings = {"run.init_lr": {"old": 0.001, "new": 0.002}}
    changes = json.loads((folder / "results.json").read_text())["resume_changes"]
    assert changes == [{"epoch": 1, "step": 0, "settings": settings}]


def test_foreign_files_are_reported(life: Life, copied: Path, tmp_path: Path) -> None:
    best = copied / "checkpoint_best.pth"
    assert "is not a checkpoint of a run;" in refused(life, copied, f"run.resume_ckpt_path={best}")
    elsewhere = f"run.resume_ckpt_path={newest(copied)}"
    assert "is not in run.output_dir" in refused(life, tmp_path / "other", elsewhere)
    assert "already contains a run" in refused(life, copied, "run.resume_ckpt_path=null")


def test_a_loss_that_is_not_finite_stops_the_run_and_the_last_checkpoint_goes_on(
    life: Life, unbroken: Path, tmp_path: Path
) -> None:
    """A rate of 1e30 breaks the weights in the first step of epoch 1: the loss of the second shows it."""
    folder = whole(life, tmp_path / "run", "run.stop_epoch=1")
    assert life(folder, "run.init_lr=1e30", "run.resume_changes=allow") == 2
    batch = Plan.load(folder / "plan_1.npz", epoch=1).batches(0)[1].tolist()
    assert "the loss of epoch 1, step 1 is not finite" in log_of(folder) and f"records {batch}" in log_of(folder)
    assert checkpoint.list_checkpoints(folder)[-1].name == "checkpoint_e0001_s0000000.pth"
    ends_alike(whole(life, folder, "run.resume_ckpt_path=auto"), unbroken)
