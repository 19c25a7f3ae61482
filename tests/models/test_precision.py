"""bf16 on a CPU: half the bits in the networks, float32 where a loss is taken."""

from __future__ import annotations

from collections import defaultdict
from typing import Any
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from lavis_mafa.common.precision import full_float32
from lavis_mafa.core.miner import ConnectionMiner
from tests.models.test_con_d import scorer_of
from tests.models.tiny import loud, tiny_blip2


class Watch(TorchFunctionMode):
    """Notes the dtypes that layers and losses are taken in."""

    WATCHED = {
        Tensor.log_softmax: "log_softmax",
        F.cross_entropy: "cross_entropy",
        F.linear: "linear",
    }

    def __init__(self) -> None:
        super().__init__()
        self.seen: dict[str, set[torch.dtype]] = defaultdict(set)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func in self.WATCHED:
            self.seen[self.WATCHED[func]].add(out.dtype if func is F.linear else args[0].dtype)
        return out


@pytest.fixture
def model() -> Any:
    model = loud(tiny_blip2(vit={"freeze_vit": True}))
    model.miner = ConnectionMiner(model.mafa, scorer_of(loud(tiny_blip2(), seed=1)))
    return model


def step(model: Any, batch: dict[str, Any], dtype: torch.dtype | None) -> Any:
    with torch.autocast("cpu", dtype=dtype, enabled=dtype is not None):
        return model({**batch, "epoch": 1})


def same_pairs(model: Any, pairs: Any) -> Any:
    """Rounding may turn a close verdict: both runs take the same pairs."""
    return mock.patch.object(model.miner, "mine", lambda *args: pairs)


def test_bf16_is_close_to_fp32(model: Any, batch: dict[str, Any]) -> None:
    exact = step(model, batch, None)
    with same_pairs(model, exact.mined):
        rough = step(model, batch, torch.bfloat16)
    for name, value in exact.losses.items():
        assert rough.losses[name].isfinite()
        assert rough.losses[name].dtype == torch.float32
        assert rough.losses[name].item() == pytest.approx(value.item(), rel=0.05), name
        assert rough.losses[name].item() != value.item(), f"{name} did not feel the precision"
    rough.loss.backward()
    gradients = [value.grad for value in model.parameters() if value.grad is not None]
    assert gradients and all(gradient.isfinite().all() for gradient in gradients)


def test_losses_and_similarities_are_taken_in_float32(model: Any, batch: dict[str, Any]) -> None:
    with Watch() as watch:
        output = step(model, batch, torch.bfloat16)
    assert torch.bfloat16 in watch.seen["linear"]  # the networks do run in bf16
    assert watch.seen["cross_entropy"] == {torch.float32}
    assert watch.seen["log_softmax"] == {torch.float32}
    assert output.image_embed.dtype == output.text_embed.dtype == torch.float32


def test_similarities_keep_their_digits(model: Any, batch: dict[str, Any]) -> None:
    """Two cosines that differ by 1e-3 are one number in bf16: mining and the planner would see ties."""
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        encoded = model.encode({**batch})
        sim_i2t_BB, sim_t2i_BB = model._similarities(encoded)
    expected = torch.einsum("bqd,wd->bwq", encoded.image_feat.double(), encoded.text_feat.double()).amax(-1)
    torch.testing.assert_close(sim_i2t_BB.double(), expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(sim_t2i_BB.double(), expected.T, atol=1e-6, rtol=0)


def test_full_float32_has_neither_autocast_nor_tf32() -> None:
    torch.set_float32_matmul_precision("high")
    try:
        with torch.autocast("cpu", torch.bfloat16):
            with full_float32("cpu"):
                assert torch.get_float32_matmul_precision() == "highest" and not torch.is_autocast_enabled("cpu")
                assert (torch.eye(2) @ torch.eye(2)).dtype == torch.float32
            assert torch.get_float32_matmul_precision() == "high" and torch.is_autocast_enabled("cpu")
    finally:
        torch.set_float32_matmul_precision("highest")


def test_con_d_scores_alike_under_autocast(model: Any, batch: dict[str, Any]) -> None:
    """Con-D is scored in float32 whatever the step's precision, so that a stored score is one number."""
    image_K, text_K = torch.tensor([0, 1, 2]), torch.tensor([3, 4, 5])
    exact = model.miner.scorer.score(batch, image_K, text_K)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = model.miner.scorer.score(batch, image_K, text_K)
    assert torch.equal(exact, rough)


def test_con_d_on_the_students_tower_reads_bf16_tokens(batch: dict[str, Any]) -> None:
    student = loud(tiny_blip2(vit={"freeze_vit": True}))
    scorer = scorer_of(loud(tiny_blip2()), shares_tower=True)
    scorer.model.visual_encoder = student.visual_encoder
    student.miner = ConnectionMiner(student.mafa, scorer)
    mined = step(student, batch, torch.bfloat16).mined
    assert mined.counts["scored"] > 0 and mined.p_C.isfinite().all()
