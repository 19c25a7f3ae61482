"""The model's own head as Con-D: its scores as the model gives them, of a frozen pass, and kept by nothing."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor

import lavis_mafa
from lavis_mafa.core.miner import ConnectionMiner
from lavis_mafa.core.settings import MafaSettings
from lavis_mafa.scorers.own_head import OwnHead
from tests.models.tiny import loud, tiny_blip2
from tests.models.tiny_albef import tiny_mafa_albef

IMAGE_K = torch.tensor([2, 0, 2, 5, 1, 2, 0])
TEXT_K = torch.tensor([1, 0, 4, 3, 2, 5, 2])


@pytest.fixture(params=[tiny_blip2, tiny_mafa_albef], ids=["mafa_blip2", "mafa_albef"])
def model(request: pytest.FixtureRequest) -> Any:
    """As training has it: with dropout."""
    return loud(request.param()).train()


@torch.no_grad()
def p_of_pair(model: Any, batch: dict[str, Any], image: int, text: int) -> float:
    """Through the model's own encoders, in eval mode, with nothing else in the batch."""
    training = model.training
    sample = {"image": batch["image"][image, None], "text_input": [batch["text_input"][text]]}
    first = torch.zeros(1, dtype=torch.long)
    p = model.eval().match_logits(model.encode(sample).state, first, first).softmax(1)[0, 1].item()
    model.train(training)
    return p


def modes(model: Any) -> list[bool]:
    return [module.training for module in model.modules()]


def test_scores_are_those_of_the_model_in_eval_mode(model: Any, batch: dict[str, Any]) -> None:
    pairs = zip(IMAGE_K.tolist(), TEXT_K.tolist(), strict=True)
    expected = torch.tensor([p_of_pair(model, batch, *pair) for pair in pairs])
    assert expected.std() > 0.01  # the network tells pairs apart
    found = OwnHead(model).score(batch, IMAGE_K, TEXT_K)
    assert found.dtype == torch.float32 and not found.requires_grad
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_tokens_in_the_batch_stand_for_the_images(model: Any, dtype: torch.dtype, batch: dict[str, Any]) -> None:
    """Those of a frozen tower, which may be one in half precision."""
    expected = OwnHead(model).score(batch, IMAGE_K, TEXT_K)
    tokens = {"image_tokens": model.eval().vision_tokens(batch).to(dtype), "text_input": batch["text_input"]}
    tolerance = 1e-5 if dtype == torch.float32 else 0.1
    torch.testing.assert_close(OwnHead(model).score(tokens, IMAGE_K, TEXT_K), expected, atol=tolerance, rtol=0)


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_of_every_part_is_restored(training: bool, batch: dict[str, Any]) -> None:
    """A frozen tower is in eval mode whatever the model is in."""
    model = loud(tiny_blip2(vit={"freeze_vit": True})).train(training)
    before = modes(model)
    assert set(before) == {training, False}
    OwnHead(model).score(batch, IMAGE_K, TEXT_K)
    assert modes(model) == before
    with pytest.raises(IndexError):
        OwnHead(model).score({**batch, "text_input": batch["text_input"][:3]}, IMAGE_K, TEXT_K)
    assert modes(model) == before


def test_under_autocast_no_cast_of_a_weight_stays_for_the_training_pass(model: Any, batch: dict[str, Any]) -> None:
    """Below torch 2.11 a cast made without gradient served the pass that needs one."""
    kept, match = [], model.match_logits

    def watched(*given: Any) -> Tensor:
        kept.append((torch.is_autocast_cache_enabled(), torch.is_autocast_enabled("cpu")))
        logits: Tensor = match(*given)
        return logits

    with torch.autocast("cpu", torch.bfloat16):
        with mock.patch.object(model, "match_logits", watched):
            OwnHead(model).score(batch, IMAGE_K, TEXT_K)
        assert kept == [(False, True)] and torch.is_autocast_cache_enabled()
        model.match_logits(model.encode({**batch}).state, IMAGE_K, TEXT_K).sum().backward()
    assert model.itm_head.weight.grad.abs().sum() > 0


class GivenVerdicts:
    """A scorer that knows P(match) of every pair beforehand."""

    fingerprint = "given"

    def __init__(self, model: Any, batch: dict[str, Any]) -> None:
        every = range(len(batch["text_input"]))
        self.p_BB = torch.tensor([[p_of_pair(model, batch, image, text) for text in every] for image in every])

    def score(self, batch: Any, image_K: Tensor, text_K: Tensor) -> Tensor:
        return self.p_BB[image_K, text_K]


def step(model: Any, scorer: Any, batch: dict[str, Any]) -> tuple[Any, dict[str, Tensor]]:
    """A training step, with dropout, and its gradients."""
    model.miner = ConnectionMiner(model.mafa, scorer)
    model.zero_grad()
    torch.manual_seed(3)
    output = model({**batch, "epoch": 1})
    output.loss.backward()
    return output, {name: part.grad.clone() for name, part in model.named_parameters() if part.grad is not None}


def test_a_step_is_that_of_a_scorer_which_says_the_same(model: Any, batch: dict[str, Any]) -> None:
    """So no gradient passes through the scores, and scoring leaves dropout and its draws as they were."""
    by_told, expected = step(model, GivenVerdicts(model, batch), batch)
    found, gradients = step(model, OwnHead(model), batch)
    counts = found.mined.counts
    assert counts == by_told.mined.counts and 0 < counts["negatives"] < counts["candidates"]
    torch.testing.assert_close(found.mined.p_C, by_told.mined.p_C, atol=1e-5, rtol=0)
    torch.testing.assert_close(gradients, expected)


def state_of(folder: Path, model: Any, scorer: Any) -> Any:
    from lavis_mafa.runners.grit_state import GritState
    from lavis_mafa.runners.run import Learner

    table = SimpleNamespace(fingerprint="data", image_id=np.arange(6))
    data = SimpleNamespace(table=table, open_image=None)
    settings = OmegaConf.create({"batch_size_train": 2, "seed": 1, "sampling": "random"})
    run = SimpleNamespace(settings=settings, folder=folder, train_set=data, network=model)
    state = GritState(run, Learner(model, torch.optim.SGD(model.parameters()), None), scorer)
    assert state.resume(None) == (0, 0)
    state.journal.close()
    return state


def test_no_store_keeps_its_scores(tmp_path: Path, batch: dict[str, Any]) -> None:
    """They age with every step; those of a frozen scorer are kept."""
    model = tiny_blip2()
    own, frozen = OwnHead(model), SimpleNamespace(fingerprint="print")
    kept, other = state_of(tmp_path / "own", model, own), state_of(tmp_path / "frozen", model, frozen)
    assert kept.connections is None and not (tmp_path / "own" / "connections").exists()
    assert other.connections is not None and (tmp_path / "frozen" / "connections").exists()
    assert (kept.expected["scorer"], other.expected["scorer"]) == ("self", "print")


@pytest.mark.parametrize(
    ("mafa", "con_d", "message"),
    [
        ({}, {"arch": "self"}, None),
        ({"rule": "relative"}, None, None),
        ({"action": "keep"}, None, None),
        ({}, None, "run.con_d names no judge"),
        ({"action": "distil"}, None, "action is 'distil' but run.con_d names no"),
    ],
)
def test_the_task_builds_the_scorer_that_the_settings_need(mafa: Any, con_d: Any, message: str | None) -> None:
    lavis_mafa.register()
    from lavis_mafa.tasks.pretrain import MafaPretrainTask

    task, student = MafaPretrainTask(OmegaConf.create({"con_d": con_d})), tiny_blip2(**mafa)
    if message:
        with pytest.raises(ValueError, match=message):
            task.build_scorer(student, None, torch.device("cpu"))
        return
    scorer = task.build_scorer(student, None, torch.device("cpu"))
    assert (isinstance(scorer, OwnHead) and scorer.model is student) if con_d else scorer is None


def test_a_model_without_a_matching_head_cannot_be_its_own_con_d() -> None:
    lavis_mafa.register()
    from lavis_mafa.tasks.pretrain import MafaPretrainTask

    task = MafaPretrainTask(OmegaConf.create({"con_d": {"arch": "self"}}))
    with pytest.raises(ValueError, match="has no matching head: name a matching network"):
        task.build_scorer(SimpleNamespace(mafa=MafaSettings(), has_itm=False), None, torch.device("cpu"))
