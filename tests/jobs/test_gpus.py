"""Which GPU a process takes, and what is reported where torch cannot use those that the machine has."""

from __future__ import annotations

import subprocess
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

import lavis_mafa
from lavis_mafa import doctor
from lavis_mafa.common import gpus
from tests.jobs.commands import ROOT, environment

SCENES = str(ROOT / "projects" / "mafa" / "blip2" / "pretrain_stage1_scenes.yaml")
HEADER = "| NVIDIA-SMI 535.54.03   Driver Version: 535.54.03   CUDA Version: {}     |"


def machine(folder: Path, monkeypatch: pytest.MonkeyPatch, count: int, cuda: str = "12.2", **visible: str) -> None:
    """A machine whose driver lists `count` GPUs; torch still sees none of them."""
    lines = "".join(f"echo 'GPU {number}: NVIDIA H100 (UUID: GPU-{number})'\n" for number in range(count))
    header = f"echo '{HEADER.format(cuda)}'"
    program = folder / "nvidia-smi"
    program.write_text(f'#!/bin/sh\nif [ "$1" = -L ]; then :; {lines}else {header}; fi\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    for name, value in visible.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize(
    ("entries", "seen"),
    [
        (None, 4),
        ("", 0),
        ("-1", 0),
        ("2", 1),
        ("0, 3", 2),
        ("0,1,7,2", 2),
        ("GPU-1,GPU-2", 2),
        ("1,-1,2", 1),
        ("all", 0),
    ],
)
def test_cuda_visible_devices_is_read_as_cuda_reads_it(entries: str | None, seen: int) -> None:
    given = {} if entries is None else {"CUDA_VISIBLE_DEVICES": entries}
    assert gpus.visible(4, given) == seen
    assert gpus.visible(0, given) == 0


def test_scripts_count_the_gpus_that_cuda_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def processes(*options: str) -> str:
        script = (
            f'PYTHON_BIN="{sys.executable}"; source run_scripts/mafa/launch.sh; launcher m "$@"; echo "${{launch[@]}}"'
        )
        done = subprocess.run(["bash", "-c", script, "-", *options], cwd=ROOT, env=environment(), capture_output=True)
        return done.stdout.decode()

    machine(tmp_path, monkeypatch, 4)
    assert "--nproc-per-node 4 -m m" in processes()
    assert "torch.distributed.run" not in processes("--options", "run.device=cpu", "run.seed=1")
    assert "torch.distributed.run" not in processes("run.device=cuda:2")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,3")
    assert "--nproc-per-node 2 -m m" in processes("run.device=cuda")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    assert "torch.distributed.run" not in processes()


WHEEL = "install a torch wheel for CUDA {}.x"


@pytest.mark.parametrize(
    ("built", "driver", "words"),
    [
        ("13.0", "12.2", ["built for CUDA 13.0, the driver runs CUDA up to 12.2", WHEEL.format(12)]),
        ("12.8", "11.4", ["built for CUDA 12.8, the driver runs CUDA up to 11.4", WHEEL.format(11)]),
        (None, "12.2", ["is built without CUDA", WHEEL.format(12)]),
        ("12.8", "12.2", ["(built for CUDA 12.8)", "lavis_mafa.doctor"]),  # 12.x runs on every driver for 12.y
    ],
)
def test_gpus_that_torch_cannot_use_are_no_reason_to_take_the_cpu(
    built: str | None, driver: str, words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine(tmp_path, monkeypatch, 2, driver)
    monkeypatch.setattr(torch.version, "cuda", built)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="run.device is auto: nvidia-smi lists 2 GPUs, but torch") as raised:
        load()
    with pytest.raises(ValueError, match="run.device is cuda, but nvidia-smi lists 2 GPUs, but torch"):
        load("run.device=cuda")
    findings = list(doctor.judge_imports(doctor.Probe({"version": "2.14", "cuda": built, "gpus": []}), doctor.Probe()))
    assert [finding.blocks for finding in findings] == [True]
    for text in (str(raised.value), f"{findings[0].message} {findings[0].remedy}"):
        assert all(word in text for word in words), text
    assert load("run.device=cpu") == "cpu"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert load() == "cpu"


def test_a_machine_without_gpus_runs_on_its_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine(tmp_path, monkeypatch, 0)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert load() == "cpu" and gpus.unused("2.14", "13.0") is None
    with pytest.raises(
        ValueError, match=r"run.device is cuda, but torch .* sees no GPU: set run.device to auto or cpu"
    ):
        load("run.device=cuda")


def load(*options: str) -> str:
    lavis_mafa.register()
    from lavis_mafa.config.load import load_config

    device: str = load_config(Namespace(cfg_path=SCENES, options=list(options))).run_cfg.device
    return device


# ---- as on a machine with two GPUs that torch sees


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Notes the GPU that is taken and the backend that is joined."""
    taken: dict[str, Any] = {}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: taken.update(device=device))
    monkeypatch.setattr(torch, "set_float32_matmul_precision", lambda name: taken.update(matmul=name))
    monkeypatch.setattr("lavis_mafa.config.load.patient_group", lambda: None)
    monkeypatch.setattr(torch.distributed, "init_process_group", lambda backend, **_: taken.update(backend=backend))
    return taken


def joined(device: str, monkeypatch: pytest.MonkeyPatch, **ranks: str) -> None:
    from lavis_mafa.config.load import init_distributed

    for name, value in ranks.items():
        monkeypatch.setenv(name, value)
    init_distributed(OmegaConf.create({"device": load(f"run.device={device}"), "gpu": 0}))


def test_alone_a_process_takes_the_gpu_of_that_number(
    two_gpus: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    joined("cuda:1", monkeypatch)
    assert two_gpus == {"device": torch.device("cuda:1"), "matmul": "high"}
    for wrong in ("cuda:2", "cuda:", "cuda:x", "cpu:0", "tpu"):
        with pytest.raises(ValueError, match=r"run\.device is .*: allowed is"):
            joined(wrong, monkeypatch)


@pytest.mark.parametrize("device", ["cuda", "auto"])
def test_under_torchrun_each_process_takes_its_own(
    device: str, two_gpus: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    joined(device, monkeypatch, RANK="3", WORLD_SIZE="4", LOCAL_RANK="1")
    assert two_gpus == {"device": 1, "backend": "nccl", "matmul": "high"}


def test_under_torchrun_one_gpu_for_all_is_refused(two_gpus: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"cuda:1, one GPU for all processes of torchrun: set run.device to cuda"):
        joined("cuda:1", monkeypatch, RANK="0", WORLD_SIZE="2", LOCAL_RANK="0")
    with pytest.raises(ValueError, match=r"process 2 of this machine has no GPU of its own: torch sees 2"):
        joined("cuda", monkeypatch, RANK="2", WORLD_SIZE="3", LOCAL_RANK="2")
    assert "device" not in two_gpus and "backend" not in two_gpus
