"""The predicted cost of a step, against the same step measured on this CPU, and against counts by hand."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lavis.common.registry import registry
from omegaconf import OmegaConf
from torch import nn
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from lavis_mafa.config.costs import batch_that_fits, cost_table, has_table
from lavis_mafa.models.meta import build_on_meta
from lavis_mafa.models.step_costs import EveryPair, Halved, PeakBytes, StepCosts, checkpointed, step_costs
from tests.models.tiny import tiny_blip2
from tests.models.tiny_albef import tiny_mafa_albef

BATCH = 32
MODELS = {"mafa_blip2": tiny_blip2, "mafa_albef": tiny_mafa_albef}


def measured(model: Any, size: int) -> tuple[int, int]:
    """FLOPs of a real step, and the most bytes that torch's allocator held during it."""
    samples = {
        "image": torch.zeros(BATCH, 3, size, size),
        "text_input": ["a " * model.max_txt_len] * BATCH,
        "epoch": 1,
    }
    model.miner = EveryPair()
    model.train()
    with FlopCounterMode(display=False) as flops:
        model(samples).loss.backward()
    model.zero_grad(set_to_none=True)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as prof:
        model(samples).loss.backward()
    events = [event for event in prof.profiler.kineto_results.events() if event.name() == "[memory]"]
    live = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        live += event.nbytes()
        peak = max(peak, live)
    return flops.get_total_flops(), peak + 4 * samples["image"].numel()


@pytest.mark.parametrize("name", MODELS)
def test_prediction_is_what_a_cpu_measures(name: str) -> None:
    model = MODELS[name]()
    size = 16
    torch.manual_seed(0)
    found = step_costs(copy.deepcopy(model).to("meta"), BATCH, size, None)
    torch.manual_seed(0)
    flops, peak = measured(model, size)
    assert found.flops == pytest.approx(flops, rel=0.1)
    assert found.peak_bytes == pytest.approx(peak, rel=0.1)


def test_peak_counts_what_lives_at_once() -> None:
    with PeakBytes("meta") as memory:
        first = torch.empty(1000, device="meta")
        view = first[:10]
        del first
        second = torch.empty(500, device="meta")
        del view
        third = torch.empty(100, device="meta")
    assert memory.peak == 4 * 1500
    assert memory.live == 4 * 600
    assert len(second) + len(third) == 600


def test_halved_is_autocast() -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 4)).to("meta")
    shown: list[torch.dtype] = []
    for part in net:
        part.register_forward_hook(lambda module, given, output: shown.append(output.dtype))
    with Halved(torch.bfloat16):
        net(torch.zeros(2, 4, device="meta"))
    assert shown == [torch.bfloat16, torch.float32, torch.bfloat16]


def test_the_peak_of_a_large_batch_grows_faster() -> None:
    """By hand: max(100 + 2 B, 5 B), whose kink is at 33."""
    half, step, more = (StepCosts(rows, 0, max(100 + 2 * rows, 5 * rows)) for rows in (10, 20, 160))
    assert batch_that_fits(130, half, step, more) == 15
    assert batch_that_fits(800, half, step, more) == 160
    assert 60 <= batch_that_fits(400, half, step, more) <= 80  # 80 is exact; 150 by the line of small batches
    assert batch_that_fits(50, half, step, more) == 0


def test_a_small_model_has_no_table() -> None:
    assert not has_table(tiny_blip2())


def test_full_size_table_and_checkpointing() -> None:
    import lavis_mafa

    lavis_mafa.register()
    model_cls: Any = registry.get_model_class("mafa_albef")
    config: Any = OmegaConf.to_container(OmegaConf.load(model_cls.default_config_path("base")).model)
    run = {"batch_size_train": 8, "precision": "bf16", "world_size": 8}
    cfg = SimpleNamespace(run_cfg=OmegaConf.create(run), model_cfg=OmegaConf.create(config))
    model = build_on_meta(model_cls, config)
    assert has_table(model)
    lines = list(cost_table(model, cfg, 0, 80_000))
    fits = next(line for line in lines if "batch that fits" in line)
    rows = [int(part.split()[0]) for part in fits.split(": ")[1].split(", ")]
    assert rows == sorted(rows) and 40 < rows[0] < 96  # of 24 GB
    h100, h200 = (next(line.split(": ")[1] for line in lines if name in line) for name in ("H100", "H200"))
    assert h100 == h200
    ways = {"with": True, "without": False}
    costs = {
        name: step_costs(build_on_meta(model_cls, checkpointed(config, on)), 8, 256, None) for name, on in ways.items()
    }
    assert costs["with"].peak_bytes < costs["without"].peak_bytes
    assert costs["with"].flops > costs["without"].flops
