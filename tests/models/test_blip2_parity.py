"""mafa_blip2 against LAVIS' blip2: same keys, and the same losses where MAFA is off and the negatives are the same."""

from __future__ import annotations

from typing import Any
from unittest import mock

import pytest
import torch

from lavis_mafa.core.miner import MinedPairs
from lavis_mafa.core.pairs import Candidates, SettledPairs
from tests.models.tiny import lavis_blip2, tiny_blip2

NEGATIVE_IMAGE = [2, 0, 4, 1, 5, 3]  # of every text
NEGATIVE_TEXT = [1, 3, 5, 0, 2, 4]  # of every image


class GivenNegatives:
    """A miner that settles on the given pairs."""

    def mine(self, batch: Any, *args: Any) -> MinedPairs:
        own = torch.arange(6)
        image, text = torch.cat([torch.tensor(NEGATIVE_IMAGE), own]), torch.cat([own, torch.tensor(NEGATIVE_TEXT)])
        from_text = torch.arange(12) < 6
        none = torch.full_like(image, -1)
        pairs = SettledPairs(image, text, torch.zeros(12, dtype=torch.long), from_text)
        return MinedPairs(pairs, {}, Candidates(image, text, none, none, from_text), None)


def lavis_losses(theirs: Any, batch: dict[str, Any]) -> Any:
    """LAVIS' forward with the draw of its negatives fixed, and its unguarded rank answered."""
    drawn = iter([torch.tensor([row]) for row in NEGATIVE_IMAGE + NEGATIVE_TEXT])
    module = "lavis.models.blip2_models.blip2_qformer"
    with (
        mock.patch("torch.multinomial", lambda weights, count: next(drawn)),
        mock.patch(f"{module}.dist.get_rank", lambda: 0),
        mock.patch(f"{module}.all_gather_with_grad", lambda tensor: tensor),
    ):
        return theirs(batch)


def test_keys_are_lavis_keys() -> None:
    ours = tiny_blip2()
    assert set(lavis_blip2(ours).state_dict()) == set(ours.state_dict())


def test_losses_and_gradients_equal_lavis(batch: dict[str, Any]) -> None:
    ours = tiny_blip2(preset="none", itc_key_grad=True).eval()
    theirs = lavis_blip2(ours).eval()
    ours.miner = GivenNegatives()
    found, expected = ours({**batch}), lavis_losses(theirs, batch)
    for name in ("loss_itc", "loss_itm", "loss_lm"):
        assert found[name].item() == pytest.approx(expected[name].item(), abs=1e-5), name
    found["loss"].backward()
    expected["loss"].backward()
    own, other = dict(ours.named_parameters()), dict(theirs.named_parameters())
    for name, parameter in other.items():
        if parameter.grad is None:
            assert own[name].grad is None, name
        else:
            torch.testing.assert_close(own[name].grad, parameter.grad, atol=2e-5, rtol=1e-3, msg=name)


def test_keys_give_no_gradient_unless_asked(batch: dict[str, Any]) -> None:
    gradients = {}
    for key_grad in (False, True):
        model = tiny_blip2(preset="none", itc_key_grad=key_grad).eval()
        model.miner = GivenNegatives()
        model({**batch})["loss_itc"].backward()
        gradients[key_grad] = model.vision_proj.weight.grad
    assert not torch.allclose(gradients[False], gradients[True])


def test_hardest_negatives_without_con_d_are_negatives(batch: dict[str, Any]) -> None:
    model = tiny_blip2(action="keep").eval()
    mined = model({**batch}).mined
    assert mined.settled.label_K.sum() == 0
    assert len(mined.settled.image_K) == 12
    assert (mined.settled.image_K != mined.settled.text_K).all()
