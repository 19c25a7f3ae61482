"""How often a step waits for the GPU, counted on tensors that pretend to be on one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from lavis_mafa.core.batch import on_device
from lavis_mafa.core.miner import ConnectionMiner
from lavis_mafa.scorers.own_head import OwnHead
from tests.models.pretend_gpu import CPU, GPU, OnGpu, moved, pretended
from tests.models.test_con_d import scorer_of
from tests.models.tiny import loud, tiny_blip2
from tests.models.tiny_albef import tiny_mafa_albef

HOST = ("index", "image_id", "text_id", "text_row")
MODELS = {"mafa_blip2": tiny_blip2, "mafa_albef": tiny_mafa_albef}
JUDGES = {
    "con_d": lambda name, model: scorer_of(loud(MODELS[name](), seed=1)),
    "self": lambda name, model: OwnHead(model),
}


def step(model: Any, batch: dict[str, Any]) -> Any:
    torch.manual_seed(0)
    output = model({**batch, "epoch": 1})
    output.loss.backward()
    return output


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(
    ("judge", "mafa"),
    [
        ("con_d", {}),
        ("con_d", {"action": "drop"}),
        ("con_d", {"action": "distil"}),
        ("self", {}),
        (None, {"action": "keep"}),
        (None, {"action": "keep", "negatives": "multinomial"}),
        (None, {"rule": "relative", "targets": "consistency"}),
    ],
)
def test_a_step_waits_for_its_similarities_and_its_scores(
    name: str, judge: str | None, mafa: dict[str, Any], batch: dict[str, Any]
) -> None:
    from lavis_mafa.runners.taken_step import TakenStep

    model = loud(MODELS[name](**mafa))
    scorer = JUDGES[judge](name, model) if judge else None
    model.miner = ConnectionMiner(model.mafa, scorer)
    expected = step(model, batch)
    with pretended() as gpu:
        moved(model)
        if judge == "con_d":
            moved(scorer.model)
        output = step(model, on_device(batch, GPU, *HOST))
        taken = TakenStep.of(0, 0, batch, output, {})
        assert isinstance(output.loss, OnGpu)
    assert gpu.waits == ["copied from the GPU"] * (1 + (judge is not None))
    assert output.mined.counts == expected.mined.counts
    losses = {"loss": expected.loss, **expected.losses, **expected.logged}
    assert taken.losses() == pytest.approx({name: value.item() for name, value in losses.items()}, rel=1e-4)
    torch.testing.assert_close(taken.numbers.values["text_embed"], expected.text_embed, atol=1e-5, rtol=0)


def test_similarities_of_an_evaluation_are_taken_on_the_gpu() -> None:
    from lavis_mafa.evaluation.retrieval import Gallery

    image_NQD, text_CD = torch.randn(5, 3, 8), torch.randn(7, 8)
    here, there = (Gallery(torch.empty(0), range(5), image_NQD, text_CD, None, device) for device in (CPU, GPU))
    with pretended() as gpu:
        found = there.of_images(range(1, 4)), there.of_texts(range(7))
    assert "copied from the GPU" in gpu.waits
    for one, other in zip(found, (here.of_images(range(1, 4)), here.of_texts(range(7))), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


def test_what_a_gpu_waits_for_is_counted() -> None:
    with pretended() as gpu:
        values, mask = torch.arange(4.0, device=GPU), torch.tensor([True, False, True, True]).to(GPU, non_blocking=True)
        assert not gpu.waits
        values[mask], values.nonzero(), values.sum().item(), torch.unique(values)
        values[mask] = 1.0
        values.cpu(), torch.ones(3).to(GPU)
        assert len(gpu.waits) == 7
        (values * 2)[torch.tensor([0, 2])]  # places on the CPU are copied first
        assert len(gpu.waits) == 8
        (values * 2)[torch.tensor([0, 2]).to(GPU, non_blocking=True)], values.to("cpu", non_blocking=True)
        assert len(gpu.waits) == 8
        with pytest.raises(AssertionError, match=r"a tensor \(4,\) is on the CPU"):
            values + torch.ones(4)
