"""projects/mafa/albef: the official schedule, augmentation and settings, and every key known."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

PROJECTS = Path(__file__).resolve().parents[2] / "projects" / "mafa" / "albef"
FOUR_MILLION = ("pretrain_4m", "pretrain_4m_code", "pretrain_4m_clean")


def config(name: str, *options: str) -> Any:
    from lavis_mafa.config.load import load_config

    return load_config(Namespace(cfg_path=str(PROJECTS / f"{name}.yaml"), options=list(options)))


def rates(run: Any) -> dict[tuple[int, int], float]:
    """The learning rate at some (epoch, step), by the scheduler as the runner builds it."""
    from lavis.common.registry import registry

    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=float(run.init_lr))
    scheduler = registry.get_lr_scheduler_class(run.lr_sched)(
        optimizer=optimizer,
        max_epoch=int(run.max_epoch),
        min_lr=float(run.min_lr),
        init_lr=float(run.init_lr),
        decay_rate=run.lr_decay_rate,
        warmup_start_lr=float(run.warmup_lr),
        warmup_steps=int(run.warmup_steps),
    )
    found = {}
    for epoch, step in [
        (0, 0),
        (0, 1000),
        (0, 2000),
        (0, 9000),
        *[(epoch, 5) for epoch in range(1, int(run.stop_epoch))],
    ]:
        scheduler.step(cur_epoch=epoch, cur_step=step)
        found[epoch, step] = optimizer.param_groups[0]["lr"]
    return found


@pytest.fixture(autouse=True)
def data_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LAVIS_MAFA_DATA", str(tmp_path))


@pytest.mark.parametrize("name", FOUR_MILLION)
def test_official_learning_rate_by_epoch(name: str) -> None:
    found = rates(config(name).run_cfg)
    assert [found[0, step] for step in (0, 1000, 2000, 9000)] == pytest.approx([1e-5, 5.5e-5, 1e-4, 1e-4])
    assert found[1, 5] == pytest.approx(9.98e-5, rel=1e-3)
    assert found[10, 5] == pytest.approx(7.75e-5, rel=1e-3)
    assert found[19, 5] == pytest.approx(3.67e-5, rel=1e-3)
    assert (20, 5) not in found


@pytest.mark.parametrize(
    ("name", "batch", "space", "preset"),
    [
        ("pretrain_4m", 96, 4800, "mafa"),
        ("pretrain_4m_code", 128, 1920, "official"),
        ("pretrain_4m_clean", 96, 4800, "mafa"),
    ],
)
def test_official_settings(name: str, batch: int, space: int, preset: str) -> None:
    cfg = config(name)
    run, model = cfg.run_cfg, cfg.model_cfg
    assert (run.batch_size_train, run.search_space, run.weight_decay, model.mafa.preset) == (batch, space, 0.02, preset)
    assert (model.image_size, model.embed_dim, model.max_txt_len, model.mlm_mask_prob) == (256, 256, 25, 0.5)
    assert len(cfg.datasets_cfg.image_text.annotations.train) == 5


def test_the_albef_row_of_table_3_has_albefs_own_settings() -> None:
    """ALBEF (arXiv 2107.07651, section 3.5): queue, momentum, distillation, masks and batches."""
    cfg = config("albef_4m")
    run, model = cfg.run_cfg, cfg.model_cfg
    assert (model.arch, run.sampling, run.batch_size_train) == ("mafa_albef_lavis", "random", 64)
    assert (model.queue_size, model.alpha, model.momentum, model.mlm_mask_prob) == (65536, 0.4, 0.995, 0.15)
    assert (model.image_size, run.init_lr, run.min_lr, run.weight_decay, run.max_epoch) == (256, 1e-4, 1e-5, 0.02, 30)
    assert cfg.datasets_cfg.image_text.annotations == config("pretrain_4m").datasets_cfg.image_text.annotations


@pytest.mark.parametrize(("name", "epochs", "k_test"), [("coco", 5, 256), ("flickr30k", 10, 128)])
def test_retrieval_as_albef_fine_tunes_and_evaluates_it(name: str, epochs: int, k_test: int) -> None:
    """ALBEF's configs/Retrieval_coco.yaml and Retrieval_flickr.yaml."""
    cfg, zero_shot = config(f"finetune_retrieval_{name}"), config(f"zero_shot_{name}")
    run, model = cfg.run_cfg, cfg.model_cfg
    assert (model.arch, model.image_size, model.max_txt_len) == ("mafa_albef_retrieval", 384, 30)
    assert model.queue_size == 65536
    assert (run.batch_size_train, run.init_lr, run.min_lr, run.weight_decay) == (32, 1e-5, 1e-6, 0.02)
    assert (run.max_epoch, run.sampling, run.valid_splits, run.test_splits) == (epochs, "random", ["val"], ["test"])
    assert zero_shot.model_cfg.arch == "mafa_albef" and zero_shot.model_cfg.image_size == 384
    assert run.k_test == zero_shot.run_cfg.k_test == k_test
    assert cfg.model_cfg.load_pretrained and zero_shot.model_cfg.load_pretrained
    assert cfg.datasets_cfg == zero_shot.datasets_cfg


def test_nlvr_is_tested_on_test_p() -> None:
    """LAVIS 1.0.2 fetches the dev file under the name of the test split."""
    cfg = config("nlvr")
    annotations = cfg.datasets_cfg.nlvr.build_info.annotations
    assert annotations.val.url.endswith("/nlvr_dev.json") and annotations.test.url.endswith("/nlvr_test.json")
    assert annotations.test.storage not in ("nlvr/annotations/test.json", annotations.val.storage)
    assert cfg.run_cfg.test_splits == ["test"]


def test_official_augmentation() -> None:
    from lavis.common.registry import registry
    from PIL import Image

    given = OmegaConf.create({"name": "albef_image_train", "image_size": 32})
    processor = registry.get_processor_class("albef_image_train").from_config(given)
    steps = {type(step).__name__: step for step in processor.transform.transforms}
    assert list(steps) == ["RandomResizedCrop", "RandomHorizontalFlip", "RandomAugment", "ToTensor", "Normalize"]
    assert steps["RandomResizedCrop"].scale == (0.2, 1.0)
    assert (steps["RandomAugment"].N, steps["RandomAugment"].M, len(steps["RandomAugment"].augs)) == (2, 7, 10)
    assert processor(Image.new("RGB", (50, 40))).shape == (3, 32, 32)


def test_training_stops_before_the_end_of_the_schedule() -> None:
    """run.stop_epoch ends the loop; the schedule keeps run.max_epoch."""
    from unittest import mock

    from lavis_mafa.runners.resumable import ResumableRunner

    runner = mock.MagicMock(run_cfg=SimpleNamespace(get={"stop_epoch": 2}.get), max_epoch=5)
    runner.resume.return_value = (1, 7)
    ResumableRunner._train(runner)
    assert runner._run_epoch.call_args_list == [mock.call(1, 7)]
