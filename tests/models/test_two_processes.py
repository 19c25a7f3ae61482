"""A step of two processes (gloo) against one on the joined batch: losses, and gradients as DDP averages them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from lavis_mafa.core.miner import ConnectionMiner, MinedPairs
from lavis_mafa.core.pairs import Candidates, SettledPairs
from lavis_mafa.models import base
from tests.models.tiny import loud, tiny_blip2
from tests.models.tiny_albef import tiny_mafa_albef
from tests.ranks import on_ranks

B, WORLD = 3, 2
# of one length: LM is a mean over tokens, and the mean of two means is that of all only where both have as many
CAPTIONS = ["a red circle", "a green star", "a blue square", "a pink ring", "a yellow cross", "a cyan circle"]
Row = tuple[int, int, int, bool]  # image, text, label, anchored at the text
PAIRS: list[list[Row]] = [  # of each rank, by its own positions
    [(0, 2, 1, True), (2, 1, 1, False), (1, 0, 0, True), (0, 1, 0, False)],
    [(1, 2, 1, False), (0, 1, 0, True), (2, 0, 1, True), (1, 0, 0, True)],
]
NONE: list[list[Row]] = [[], []]
UNEQUAL: list[list[Row]] = [[], PAIRS[1]]


class GivenPairs:
    """A miner that settles on the given pairs."""

    def __init__(self, rows: Sequence[Row]) -> None:
        image, text, label, from_text = torch.tensor(rows, dtype=torch.long).reshape(-1, 4).unbind(1)
        self.settled = SettledPairs(image, text, label, from_text.bool())

    def mine(self, *args: Any) -> MinedPairs:
        none = torch.empty(0, dtype=torch.long)
        return MinedPairs(self.settled, {}, Candidates(none, none, none, none, none.bool()), None)


def joined_batch() -> dict[str, Any]:
    """Two records of one image and two of one caption, each on either rank."""
    index = torch.arange(WORLD * B)
    return {
        "image": torch.randn(len(index), 3, 16, 16, generator=torch.Generator().manual_seed(3)),
        "text_input": list(CAPTIONS),
        "caption": list(CAPTIONS),
        "index": index,
        "image_id": torch.tensor([100, 101, 102, 103, 100, 105]),
        "text_id": torch.tensor([200, 201, 202, 201, 204, 205]),
        "text_row": index,
    }


def part(rank: int) -> dict[str, Any]:
    return {key: value[rank * B : (rank + 1) * B] for key, value in joined_batch().items()}


def joined(pairs: Sequence[Sequence[Row]]) -> list[Row]:
    return [(i + r * B, t + r * B, label, by) for r, rows in enumerate(pairs) for i, t, label, by in rows]


def every_second_token(self: Any, ids: Tensor, *args: Any, targets: Tensor, **rest: Any) -> tuple[Tensor, Tensor]:
    """ALBEF's mask without its draw."""
    hidden = torch.zeros_like(ids, dtype=torch.bool)
    hidden[:, 1::2] = True
    return ids.masked_fill(hidden, self.tokenizer.mask_token_id), targets.masked_fill(~hidden, -100)


def build(arch: str, **mafa: Any) -> Any:
    return loud({"blip2": tiny_blip2, "albef": tiny_mafa_albef}[arch](**mafa))


def step(model: Any, wrapped: Any, batch: dict[str, Any], rows: Sequence[Row], epoch: int) -> dict[str, Any]:
    """{loss: (value, {parameter: gradient})}."""
    model.miner = GivenPairs(rows)
    found = {}
    with mock.patch("lavis_mafa.models.albef.pretrain.MafaAlbef.mask", every_second_token):
        for name in wrapped({**batch, "epoch": epoch}).losses:
            model.zero_grad()
            losses = wrapped({**batch, "epoch": epoch}).losses
            sum(value * (other == name) for other, value in losses.items()).backward()  # DDP waits for every parameter
            found[name] = (losses[name].item(), {key: value.grad for key, value in model.named_parameters()})
    return found


def rank_step(rank: int, world: int, arch: str, pairs: Any, epoch: int, mafa: dict[str, Any]) -> dict[str, Any]:
    model = build(arch, **mafa)
    return step(model, DistributedDataParallel(model), part(rank), pairs[rank], epoch)


def compare(found: list[dict[str, Any]], expected: dict[str, Any]) -> None:
    """The mean over ranks of every loss, and every rank's gradient, are the expected ones."""
    for name, (value, gradients) in expected.items():
        assert sum(rank[name][0] for rank in found) / WORLD == pytest.approx(value, abs=1e-5), name
        assert max(gradient.abs().max() for gradient in gradients.values()) > 1e-2, name
        for rank in found:
            for key, gradient in gradients.items():
                torch.testing.assert_close(rank[name][1][key], gradient, atol=1e-5, rtol=1e-4, msg=f"{name} {key}")


def mean(parts: list[dict[str, Any]]) -> dict[str, Any]:
    """Of the losses and gradients of several steps."""
    return {
        name: (
            sum(step[name][0] for step in parts) / len(parts),
            {key: sum(step[name][1][key] for step in parts) / len(parts) for key in parts[0][name][1]},
        )
        for name in parts[0]
    }


@pytest.mark.parametrize("pairs", [NONE, PAIRS], ids=["no pairs", "pairs"])
@pytest.mark.parametrize("key_grad", [False, True])
def test_two_processes_are_one_on_the_joined_batch(key_grad: bool, pairs: Any, tmp_path: Path) -> None:
    """Every rank's loss is a mean over its own rows, so DDP's mean over ranks is the mean over all rows. That holds of
    keys that learn too: LAVIS' gather sums their gradients over the ranks before DDP takes the mean."""
    mafa = {"alpha": 0.0, "itc_key_grad": key_grad}
    model = build("blip2", **mafa)
    expected = step(model, model, joined_batch(), joined(pairs), 1)
    compare(on_ranks(WORLD, tmp_path, rank_step, "blip2", pairs, 1, mafa), expected)


def test_what_is_compared_sees_keys_and_known_positives() -> None:
    """The settings above are distinguished by the losses and gradients that are compared."""
    found = [
        step(model, model, joined_batch(), joined(PAIRS), 1)["loss_itc"]
        for model in (
            build("blip2", alpha=0.0, **mafa) for mafa in ({}, {"itc_key_grad": True}, {"known_positives": False})
        )
    ]
    key = "vision_proj.weight"
    assert found[0][0] == pytest.approx(found[1][0]) and (found[0][1][key] - found[1][1][key]).abs().max() > 1e-3
    assert abs(found[0][0] - found[2][0]) > 1e-3


def smoothed_in_blocks(settled: SettledPairs, known_WW: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    """S-ITC of two ranks in one process: α/B over the columns of a row's own rank."""
    rank_W = torch.arange(WORLD * B) // B
    own_rank_WW = (rank_W[:, None] == rank_W[None, :]).float()
    plain = MANAGED(settled, known_WW, 0, 0.0, 0.0)
    return tuple(0.5 * target_WW + 0.5 / B * own_rank_WW for target_WW in plain)  # type: ignore[return-value]


MANAGED = base.losses.managed_itc_targets


@pytest.mark.parametrize("key_grad", [False, True])
def test_smoothing_stays_in_the_batch_that_grit_grouped(key_grad: bool, tmp_path: Path) -> None:
    mafa = {"alpha": 0.5, "itc_key_grad": key_grad}
    model = build("blip2", **mafa)
    with mock.patch.object(base.losses, "managed_itc_targets", smoothed_in_blocks):
        expected = step(model, model, joined_batch(), joined(PAIRS), 1)
    compare(on_ranks(WORLD, tmp_path, rank_step, "blip2", PAIRS, 1, mafa), expected)


def test_unequal_pairs_weigh_by_rank(tmp_path: Path) -> None:
    """ITM and LM of a rank are means over its own pairs and tokens, and every rank counts the same: a pair of a rank
    that found few weighs more than one of a rank that found many."""
    model = build("blip2", alpha=0.0, itc_key_grad=True)
    expected = mean([step(model, model, part(rank), UNEQUAL[rank], 1) for rank in range(WORLD)])
    expected["loss_itc"] = step(model, model, joined_batch(), joined(UNEQUAL), 1)["loss_itc"]
    found = on_ranks(WORLD, tmp_path, rank_step, "blip2", UNEQUAL, 1, {"alpha": 0.0, "itc_key_grad": True})
    compare(found, expected)
    together = step(model, model, joined_batch(), joined(UNEQUAL), 1)["loss_itm"][0]
    assert abs(together - expected["loss_itm"][0]) > 1e-3


@pytest.mark.parametrize("gather", [False, True])
def test_albef(gather: bool, tmp_path: Path) -> None:
    """Its ITC is of the local batch (official) unless told to gather."""
    mafa = {"alpha": 0.0, "itc_gather": gather}
    model = build("albef", **mafa)
    expected = mean([step(model, model, part(rank), PAIRS[rank], 1) for rank in range(WORLD)])
    whole = step(model, model, joined_batch(), joined(PAIRS), 1)
    compare(on_ranks(WORLD, tmp_path, rank_step, "albef", PAIRS, 1, mafa), whole if gather else expected)
    assert expected["loss_itm"][0] == pytest.approx(whole["loss_itm"][0], abs=1e-5)
    assert abs(expected["loss_itc"][0] - whole["loss_itc"][0]) > 1e-3


# ---- mining


class Even:
    """A scorer that connects pairs of an even sum of records."""

    fingerprint = "even"

    def score(self, batch: Any, image_K: Tensor, text_K: Tensor) -> Tensor:
        return 1.0 - (batch["index"][image_K] + batch["text_row"][text_K]).float() % 2


def mined(batch: dict[str, Any], candidates: str) -> dict[str, Any]:
    model = build("blip2", preset="mafa", candidates=candidates)
    model.miner = ConnectionMiner(model.mafa, Even())
    found = model({**batch, "epoch": 1}).mined
    itc = {f"itc_{name}": value for name, value in vars(found.itc_pairs).items()}
    compared = {**vars(found.candidates), **vars(found.settled), **itc, "p_C": found.p_C, "matches_C": found.matches_C}
    return {name: value for name, value in compared.items() if value is not None}  # p_K: of a distilled Con-D alone


def rank_mined(rank: int, world: int) -> list[dict[str, Any]]:
    return [mined(part(rank), candidates) for candidates in ("hardest", "batch")]


def test_a_rank_mines_its_own_batch(tmp_path: Path) -> None:
    ranks = on_ranks(WORLD, tmp_path, rank_mined)
    for rank, (candidates, rows) in itertools.product(range(WORLD), (("hardest", 2 * B), ("batch", 2 * B * (B - 1)))):
        found, alone = ranks[rank][candidates == "batch"], mined(part(rank), candidates)
        assert len(alone["image_C"]) == rows
        assert all(torch.equal(found[name], alone[name]) for name in alone)
    assert all(any(rank[way]["itc_label_K"].any() for rank in ranks) for way in (0, 1))


def rank_without_candidates(rank: int, world: int) -> tuple[int, float, float]:
    """Rank 0 holds one caption only, so that nothing may be mined there; two steps, the second with what DDP learnt."""
    model = build("blip2", itc_key_grad=True)
    model.miner = ConnectionMiner(model.mafa, Even())
    wrapped, batch = DistributedDataParallel(model), part(rank)
    if rank == 0:
        batch["text_id"] = torch.full_like(batch["text_id"], 7)
    for _ in range(2):
        output = wrapped({**batch, "epoch": 1})
        output.loss.backward()
    gradient = sum(float(value.grad.abs().sum()) for value in model.parameters())
    return len(output.mined.candidates.image_C), output.loss.item(), gradient


def test_a_rank_without_candidates_does_not_hold_up_the_other(tmp_path: Path) -> None:
    (none, loss, gradient), (some, _, same) = on_ranks(WORLD, tmp_path, rank_without_candidates)
    assert (none, some) == (0, 2 * B)
    assert loss > 0 and gradient == pytest.approx(same)
