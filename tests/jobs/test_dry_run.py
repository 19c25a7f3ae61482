"""`--dry-run` says what a run would be; here its numbers are held against hand-made ones."""

from __future__ import annotations

import json
import socket
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import nn

import lavis_mafa

FOLDER = Path(__file__).resolve().parents[2] / "projects" / "mafa" / "blip2"
SMALL = ("datasets.scenes.splits.train.n=40", "datasets.scenes.splits.val.n=4", "datasets.scenes.splits.test.n=4")


@pytest.fixture(scope="module", autouse=True)
def registered() -> None:
    lavis_mafa.register()


def load(name: str, *options: str) -> Any:
    from lavis_mafa.config.load import load_config

    return load_config(Namespace(cfg_path=str(FOLDER / f"{name}.yaml"), options=["run.device=cpu", *options]))


@pytest.mark.parametrize("frozen", [True, False])
def test_a_momentum_teacher_is_counted(frozen: bool) -> None:
    """Apart from a frozen tower, which it shares, it holds all weights once more; every kept checkpoint has it, too."""
    from lavis_mafa.config.dry_run import disk_bytes, memory_bytes
    from lavis_mafa.models.albef.pretrain import MafaAlbef
    from lavis_mafa.models.meta import build_on_meta

    def of(targets: str) -> tuple[Any, Any]:
        options = (f"model.mafa.targets={targets}", f"model.freeze_vit={frozen}")
        cfg = load("../albef/pretrain_stage_scenes", *SMALL, *options)
        return build_on_meta(MafaAlbef, dict(cfg.model_cfg)), cfg

    (plain, plain_cfg), (taught, cfg) = of("one_hot"), of("momentum")
    memory = memory_bytes(taught)
    copied = sum(v.numel() for n, v in plain.named_parameters() if not (frozen and n.startswith("visual_encoder.")))
    buffers = sum(value.numel() * 8 for value in plain.text_encoder.buffers())  # positions
    assert memory.pop("momentum teacher") == 4 * copied + buffers
    assert memory == memory_bytes(plain)
    disk, kept = disk_bytes(taught, 40, cfg), int(cfg.run_cfg.get("keep_checkpoints", 2)) + 1
    more = disk["checkpoints"] - disk_bytes(plain, 40, plain_cfg)["checkpoints"]
    assert more == kept * (4 * copied + buffers)


def test_momentum_copies_of_the_model_itself_are_in_its_checkpoints() -> None:
    """LAVIS' ALBEF holds them, and its queues, in the state_dict: they count on disk, though nothing trains them."""
    from lavis_mafa.config.dry_run import disk_bytes, memory_bytes
    from lavis_mafa.models.albef.tasks import LavisAlbef
    from lavis_mafa.models.meta import build_on_meta
    from lavis_mafa.models.trained import trained_state

    cfg = load("../albef/albef_scenes", *SMALL)
    model = build_on_meta(LavisAlbef, dict(cfg.model_cfg))
    state = sum(value.numel() * value.element_size() for value in trained_state(model).values())
    moments = memory_bytes(model)["optimiser"]
    assert state > moments and any("_m." in key for key in trained_state(model))
    assert disk_bytes(model, 640, cfg)["checkpoints"] == 3 * (state + moments) + 2 * state


def test_a_run_with_a_momentum_teacher_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from lavis_mafa.config.dry_run import dry_run

    options = ("model.mafa.targets=momentum", f"run.output_dir={tmp_path / 'out'}", "run.resume_ckpt_path=null")
    assert dry_run(load("../albef/pretrain_stage_scenes", *SMALL, "run.batch_size_train=16", *options)) == []
    memory = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("memory per process"))
    assert "momentum teacher" in memory


def test_numbers_of_a_known_network() -> None:
    from lavis_mafa.config import dry_run

    net = nn.ModuleDict({"a": nn.Linear(3, 5), "b": nn.Linear(2, 2, bias=False)})
    net["a"].weight.requires_grad_(False)
    assert dry_run.parameters(net) == {"a": (15, 5), "b": (0, 4)}
    assert dry_run.memory_bytes(net) == {"weights": 24 * 4, "gradients": 9 * 4, "optimiser": 9 * 8}
    net["a"].half()
    assert dry_run.memory_bytes(net)["weights"] == 20 * 2 + 4 * 4


def test_the_default_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from lavis_mafa.config.dry_run import disk_bytes, dry_run, parameters
    from lavis_mafa.models.blip2.stage1 import MafaBlip2
    from lavis_mafa.models.meta import build_on_meta

    options = (
        *SMALL,
        "run.batch_size_train=16",
        "run.max_epoch=10",
        f"run.output_dir={tmp_path / 'out'}",
        "run.resume_ckpt_path=null",
    )
    cfg = load("pretrain_stage1_scenes", *options)
    assert dry_run(cfg) == []
    printed = capsys.readouterr().out
    assert "records: 40 with 80 captions" in printed and "batches: 2 an epoch of 1 x 16, 10 epochs, 20 steps" in printed
    assert "run.warmup_steps (60) exceeds all steps" in printed and "nothing is missing" in printed
    assert not (tmp_path / "out").exists()

    built = MafaBlip2.from_config(cfg.model_cfg)
    meta = build_on_meta(MafaBlip2, dict(cfg.model_cfg))
    assert all(value.is_meta for value in meta.parameters())
    assert parameters(meta) == parameters(built)  # the same network without its weights
    disk = disk_bytes(meta, 40, cfg)
    assert disk["embeddings"] == 2 * (2 * 40 * 64 * 2) and disk["connections"] == 16 * 2 * 16 * 2 * 10
    assert disk_bytes(meta, 10**6, cfg)["connections"] == 0, "hardly a pair comes back at M = 960 of a million"
    tokens = built.visual_encoder(torch.zeros(1, 3, 48, 48)).shape
    assert disk["tokens of train"] == 40 * tokens[1] * tokens[2] * 2


def test_a_full_size_run_on_a_machine_without_its_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from lavis.common.registry import registry

    from lavis_mafa.config.dry_run import dry_run

    monkeypatch.setitem(registry.mapping["paths"], "cache_root", str(tmp_path))
    missing = dry_run(load("pretrain_stage1"))
    assert f"datasets.coco_caption.build_info.images.storage: nothing at {tmp_path}/coco/images" in "\n".join(missing)
    assert any("the run will download https://" in line and "vg_caption.json" in line for line in missing)
    printed = capsys.readouterr().out
    assert "visual_encoder: 0.00 M trained, 985.89 M frozen; own file eva_clip_g" in printed
    assert "Qformer: 186.28 M trained, 0.00 M frozen; own file bert-base-uncased" in printed
    assert "missing on this machine:" in printed and not any(tmp_path.iterdir())


def test_the_command_ends_with_what_it_found(monkeypatch: pytest.MonkeyPatch) -> None:
    from lavis_mafa import train

    config = str(FOLDER / "pretrain_stage1_scenes.yaml")
    arguments = ["train", "--cfg-path", config, "--dry-run", "--options", *SMALL, "run.batch_size_train=16"]
    monkeypatch.setattr(sys, "argv", arguments)
    with pytest.raises(SystemExit) as ended:
        train.main()
    assert ended.value.code == 0
    monkeypatch.setattr(sys, "argv", [*arguments, "run.con_d.finetuned=/no/such.pth"])
    with pytest.raises(SystemExit) as ended:
        train.main()
    assert ended.value.code == 1


NOT_OF_SCENES = [
    *sorted(path for path in FOLDER.parent.glob("albef/*.yaml") if not path.stem.endswith(("scenes", "8k", "daquar"))),
    FOLDER / "pretrain_stage2_opt2.7b.yaml",
    FOLDER.parent / "eval" / "vqav2_flant5xl.yaml",
]


@pytest.mark.parametrize("path", NOT_OF_SCENES, ids=lambda path: path.stem)
def test_a_full_size_run_is_described_without_a_network(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from lavis.common.registry import registry

    from lavis_mafa.config.dry_run import dry_run

    def refused(*address: object) -> None:
        raise AssertionError(f"{address} is asked for")

    monkeypatch.setattr(socket.socket, "connect", refused)
    monkeypatch.setattr(socket, "getaddrinfo", refused)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.setitem(registry.mapping["paths"], "cache_root", str(tmp_path))
    missing = "\n".join(dry_run(load(f"../{path.parent.name}/{path.stem}", f"run.output_dir={tmp_path}/out")))
    assert "datasets." in missing
    if path.parent.name == "albef":
        assert "visual_encoder: 8" in capsys.readouterr().out
        if path.stem.startswith("pretrain"):
            assert "model.vit_weights: the run will download https://dl.fbaipublicfiles.com/deit/" in missing
    else:
        assert "the run will download facebook/opt-2.7b" in missing or "will download google/flan-t5-xl" in missing


@pytest.mark.parametrize(
    ("name", "printed"),
    [
        ("../albef/vqa_scenes", "records: "),
        ("../albef/nlvr_scenes", "records: "),
        ("../eval/gqa_scenes", "evaluated alone: test with"),
        ("pretrain_stage2_opt_scenes", "opt_proj"),
    ],
)
def test_questions_statements_and_stage_2_are_described(
    name: str, printed: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from lavis_mafa.config.dry_run import dry_run

    missing = dry_run(load(name, f"run.output_dir={tmp_path}/out"))
    assert all(line.startswith(("model.", "run.con_d.")) for line in missing)  # what a run before it writes
    assert printed in capsys.readouterr().out


@pytest.fixture
def own(tmp_path: Path) -> tuple[str, ...]:
    """Options of a run on own images, whose splits have eight records each."""
    images = tmp_path / "images"
    images.mkdir()
    for split in ("train", "val"):
        for number in range(8):
            Image.new("RGB", (8, 8)).save(images / f"{split}{number}.png")
        rows = [{"image": f"{split}{number}.png", "caption": f"{split} {number}"} for number in range(8)]
        (tmp_path / f"{split}.json").write_text(json.dumps(rows))
    return (
        *("model.vit_model=small_vit", "model.freeze_vit=false", "run.cache_tokens=false", "run.con_d={arch: self}"),
        *(f"datasets.image_text.images={images}", f"run.output_dir={tmp_path}/out", "run.batch_size_train=4"),
        *(f"datasets.image_text.annotations.{split}={tmp_path}/{split}.json" for split in ("train", "val")),
    )


def test_the_first_images_of_every_split_are_read(own: tuple[str, ...], tmp_path: Path) -> None:
    from lavis_mafa.config.dry_run import dry_run

    assert dry_run(load("pretrain_stage1_images", *own)) == []
    (tmp_path / "images" / "val1.png").unlink()
    (tmp_path / "images" / "train0.png").write_text("no image")
    train, val = dry_run(load("pretrain_stage1_images", *own))
    assert train.startswith("datasets.image_text, split train, sample 0:") and "cannot be read" in train
    assert val.startswith("datasets.image_text, split val, sample 1: split val (") and "val.json): no image file" in val
    one = [*own, "datasets.image_text.annotations.val=null"]
    assert len(dry_run(load("pretrain_stage1_images", *one))) == 1
    assert dry_run(load("pretrain_stage1_images", *one, "datasets.image_text.on_bad_image=replace")) == []


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("run.con_d=null", "run.con_d names no judge"),
        ("run.judged_pairs=train.json", "run.judged_pairs is about the images of a test split"),
        (
            "run.test_splits=[tset]",
            r"run\.test_splits is 'tset': allowed is a split of datasets\.image_text: train, val",
        ),
        ("run.batch_size_train=9", "at most 8: train has 8 records"),
    ],
)
def test_what_the_run_refuses_is_refused(own: tuple[str, ...], option: str, message: str) -> None:
    from lavis_mafa.config.dry_run import dry_run

    with pytest.raises(ValueError, match=message):
        dry_run(load("pretrain_stage1_images", *own, option))
