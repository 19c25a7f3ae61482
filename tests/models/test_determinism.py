"""The same step twice gives the same gradients to the bit, with two threads too: a resume is exact by that."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from omegaconf import OmegaConf

import lavis_mafa

BATCH, REPEATS = 48, 4


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("arch", ["mafa_blip2", "mafa_albef"])
def test_a_step_has_the_same_gradients_every_time(arch: str, two_threads: None) -> None:
    lavis_mafa.register()
    from lavis.common.registry import registry

    torch.manual_seed(0)
    model_cls = registry.get_model_class(arch)
    model = model_cls.from_config(OmegaConf.load(model_cls.default_config_path("scenes")).model).float().train()
    with torch.no_grad():
        tokens = model.visual_encoder(torch.randn(BATCH, 3, 48, 48))
    samples = {
        "image_tokens": tokens,
        "text_input": [f"a red circle above a {size} blue square" for size in ("small", "big", "tiny")] * (BATCH // 3),
        "image_id": torch.arange(BATCH),
        "text_id": torch.arange(BATCH),
        "index": torch.arange(BATCH),
    }
    found = [gradients(model, samples) for _ in range(REPEATS)]
    for again in found[1:]:
        assert [name for name in again if not torch.equal(again[name], found[0][name])] == []


def gradients(model: torch.nn.Module, samples: dict[str, object]) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    model.zero_grad()
    model(dict(samples)).loss.backward()
    return {name: part.grad.clone() for name, part in model.named_parameters() if part.grad is not None}
