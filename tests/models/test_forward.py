"""The one forward: a whole step against its equations written out (golden.py), and where each found pair enters."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor

from lavis_mafa.core.miner import ConnectionMiner
from tests.models.golden import golden_step
from tests.models.tiny import CAPTIONS, lavis_blip2, loud, tiny_blip2

CONNECTION, AMBIGUOUS, NEGATIVE = 0.9, 0.65, 0.1
Pair = tuple[int, int]  # image, text


@dataclass
class GivenVerdicts:
    """A scorer with given verdicts, `rest` for any other pair, and remembers what it was asked."""

    p: dict[Pair, float] = field(default_factory=dict)
    rest: float = NEGATIVE
    asked: list[Pair] = field(default_factory=list)
    fingerprint: str = "given"

    def score(self, batch: Any, image_K: Tensor, text_K: Tensor) -> Tensor:
        pairs = list(zip(image_K.tolist(), text_K.tolist(), strict=True))
        self.asked += pairs
        return torch.tensor([self.p.get(pair, self.rest) for pair in pairs])


def model_with(scorer: GivenVerdicts | None, **mafa: Any) -> Any:
    model = loud(tiny_blip2(**mafa))
    model.miner = ConnectionMiner(model.mafa, scorer)
    return model


def part(batch: dict[str, Any], size: int) -> dict[str, Any]:
    return {key: value[:size] for key, value in batch.items()}


def known(batch: dict[str, Any]) -> set[Pair]:
    own, image_id, text_id = range(len(batch["text_input"])), batch["image_id"].tolist(), batch["text_id"].tolist()
    return {(i, t) for i in own for t in own if image_id[i] == image_id[t] or text_id[i] == text_id[t]}


def own(batch: dict[str, Any]) -> set[Pair]:
    return {(i, i) for i in range(len(batch["text_input"]))}


def candidate_pairs(batch: dict[str, Any]) -> tuple[list[Pair], list[Pair]]:
    """The hardest pairs that a model asks about, by text and by image: verdicts can then be given for some of them."""
    mined = model_with(GivenVerdicts())({**batch}).mined.candidates
    pairs = list(zip(mined.image_C.tolist(), mined.text_C.tolist(), strict=True))
    return (
        [pair for pair, from_text in zip(pairs, mined.from_text_C, strict=True) if from_text],
        [pair for pair, from_text in zip(pairs, mined.from_text_C, strict=True) if not from_text],
    )


def check(model: Any, batch: dict[str, Any], scorer: GivenVerdicts, same: set[Pair], **options: Any) -> dict[str, Any]:
    """The step's losses and gradients equal the golden ones; returns the golden step."""
    found = model({**batch})
    lavis = lavis_blip2(model).eval()
    every = {(i, t): scorer.p.get((i, t), scorer.rest) for i in range(6) for t in range(6)}
    golden = golden_step(lavis, batch["image"], batch["text_input"], every, same, **options)
    for name in ("loss_itc", "loss_itm", "loss_lm"):
        assert found[name].item() == pytest.approx(golden[name].item(), abs=2e-5), name
    pairs = found.mined.settled
    columns = (pairs.image_K.tolist(), pairs.text_K.tolist(), pairs.label_K.tolist(), pairs.from_text_K.tolist())
    listed = [((i, t), label, "t2i" if from_text else "i2t") for i, t, label, from_text in zip(*columns, strict=True)]
    assert listed == golden["settled"]
    compare_gradients(model, lavis, found, golden)
    return golden


def compare_gradients(model: Any, lavis: Any, found: Any, golden: dict[str, Any]) -> None:
    """Of ITM and LM; the golden ITC lets its keys learn, ours does not (test_blip2_parity.py holds both settings)."""
    (found["loss_itm"] + found["loss_lm"]).backward()
    (golden["loss_itm"] + golden["loss_lm"]).backward()
    other = dict(lavis.named_parameters())
    for name, parameter in model.named_parameters():
        if other[name].grad is not None:
            torch.testing.assert_close(parameter.grad, other[name].grad, atol=1e-4, rtol=1e-3, msg=name)


# ---- whole steps


def verdicts(batch: dict[str, Any], scenario: str) -> GivenVerdicts:
    by_text, by_image = candidate_pairs(batch)
    one_way = next(pair for pair in by_text if pair not in by_image)
    other_way = next(pair for pair in by_image if pair not in by_text)
    by_scenario = {
        "none": {},
        "by text": {one_way: CONNECTION},
        "by image": {other_way: CONNECTION},
        "both ways": dict.fromkeys([*by_text[:3], *by_image[:3]], CONNECTION),
        "all": dict.fromkeys([*by_text, *by_image], CONNECTION),
        "ambiguous": {one_way: AMBIGUOUS, other_way: AMBIGUOUS},
        "mixed": dict(zip([*by_text, *by_image], [CONNECTION, AMBIGUOUS, NEGATIVE] * 4, strict=True)),
        "bounds": dict(zip([*by_text, *by_image], [0.5, 0.8] * 6, strict=True)),
    }
    return GivenVerdicts(by_scenario[scenario], rest=AMBIGUOUS if scenario == "bounds" else NEGATIVE)


SCENARIOS = ["none", "by text", "by image", "both ways", "all", "ambiguous", "mixed", "bounds"]


@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize("epoch", [0, 1])
def test_step_is_its_equations(scenario: str, epoch: int, batch: dict[str, Any]) -> None:
    batch["epoch"] = epoch
    scorer = verdicts(batch, scenario)
    golden = check(model_with(scorer), batch, scorer, own(batch), alpha=0.5 if epoch else 0.0)
    labels = [label for _, label, _ in golden["settled"]]
    expected = {"none": (0, 12), "by text": (1, 12), "by image": (1, 12), "all": (12, 12)}
    if scenario in expected:
        assert (sum(labels), len(labels)) == expected[scenario]


@pytest.mark.parametrize("scenario", ["none", "mixed"])
def test_step_with_known_positives(scenario: str, batch: dict[str, Any]) -> None:
    """Two views of one image, and one caption twice: neither is ever a negative, both are targets."""
    batch["image_id"][1] = batch["image_id"][0]
    # side by side: a matrix product may round columns of the same numbers differently, and the two must tie
    batch["text_id"][3], batch["text_input"][3] = batch["text_id"][2], batch["text_input"][2]
    batch["epoch"] = 1
    scorer = verdicts(batch, scenario)
    check(model_with(scorer), batch, scorer, known(batch), alpha=0.5)
    assert not known(batch) & set(scorer.asked)


def test_step_with_known_positives_off(batch: dict[str, Any]) -> None:
    batch["image_id"][:] = 7
    batch["epoch"] = 1
    scorer = GivenVerdicts()
    check(model_with(scorer, known_positives=False), batch, scorer, own(batch), alpha=0.5)
    assert scorer.asked


@pytest.mark.parametrize("size", [1, 2])
@pytest.mark.parametrize("p", [CONNECTION, AMBIGUOUS, NEGATIVE])
def test_step_of_a_small_batch(size: int, p: float, batch: dict[str, Any]) -> None:
    """Alone there is no candidate; of two, each has one and no spare, so an ambiguous pair leaves none."""
    batch = part(batch, size) | {"epoch": 1}
    scorer = GivenVerdicts(rest=p)
    golden = check(model_with(scorer), batch, scorer, own(batch), alpha=0.5)
    assert len(golden["settled"]) == (0 if size == 1 or p == AMBIGUOUS else 4)


def test_step_of_one_caption(batch: dict[str, Any]) -> None:
    """Every pair is a known positive: nothing is mined, nothing is asked, and the losses are whole."""
    batch |= {"text_input": [CAPTIONS[0]] * 6, "caption": [CAPTIONS[0]] * 6, "epoch": 1}
    batch["text_id"][:] = 7
    scorer = GivenVerdicts(rest=CONNECTION)
    golden = check(model_with(scorer), batch, scorer, known(batch), alpha=0.5)
    assert golden["settled"] == [] and scorer.asked == []


@pytest.mark.parametrize("scenario", ["both ways", "mixed"])
def test_step_of_the_official_preset(scenario: str, batch: dict[str, Any]) -> None:
    """A pair that was found in both directions stands twice in ITM and LM."""
    batch["epoch"] = 1
    by_text, by_image = candidate_pairs(batch)
    twice = next(pair for pair in by_text if pair in by_image)
    scorer = verdicts(batch, scenario)
    scorer.p[twice] = CONNECTION
    golden = check(model_with(scorer, preset="official"), batch, scorer, own(batch), alpha=0.5, once=False)
    assert [pair for pair, label, _ in golden["settled"] if label].count(twice) == 2


def test_step_that_drops_connections(batch: dict[str, Any]) -> None:
    """action: drop takes a connection out of its anchor's ITC row, and out of ITM as an ambiguous pair."""
    batch["epoch"] = 1
    scorer = verdicts(batch, "mixed")
    check(model_with(scorer, action="drop"), batch, scorer, own(batch), alpha=0.5, drop=True)


def random_verdicts(seed: int) -> GivenVerdicts:
    p = torch.rand(6, 6, generator=torch.Generator().manual_seed(seed))
    return GivenVerdicts({(i, t): round(p[i, t].item(), 3) for i in range(6) for t in range(6)})


@pytest.mark.parametrize("drop", [False, True])
@pytest.mark.parametrize("epoch", [0, 1])
def test_step_over_the_whole_batch(drop: bool, epoch: int, batch: dict[str, Any]) -> None:
    """candidates: batch. Every pair is asked about once, but for known positives."""
    batch["image_id"][1] = batch["image_id"][0]
    batch["epoch"], scorer = epoch, random_verdicts(epoch)
    options = {"action": "drop"} if drop else {}
    model = model_with(scorer, candidates="batch", **options)
    golden = check(model, batch, scorer, known(batch), alpha=0.5 if epoch else 0.0, whole=True, drop=drop)
    labels = [label for _, label, _ in golden["settled"]]
    assert 0 in labels and (1 in labels) is not drop
    assert sorted(scorer.asked) == sorted({(i, t) for i in range(6) for t in range(6)} - known(batch))


@pytest.mark.parametrize("candidates", ["hardest", "batch"])
def test_step_whose_targets_are_proportional_to_p_match(candidates: str, batch: dict[str, Any]) -> None:
    batch["epoch"] = 1
    by_text, by_image = candidate_pairs(batch)
    scorer = random_verdicts(3)
    scorer.p |= dict(zip([*by_text, *by_image], [0.85, 0.6, 0.95] * 4, strict=True))
    model = model_with(scorer, candidates=candidates, positive_weight="probability")
    golden = check(model, batch, scorer, own(batch), alpha=0.5, whole=candidates == "batch", weighted=True)
    plain = model_with(scorer, candidates=candidates)({**batch})
    assert abs(golden["loss_itc"].item() - plain["loss_itc"].item()) > 1e-4  # the weights are seen


# ---- where a connection enters


def targets(model: Any, batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """The ITC targets of a step, image→text and text→image."""
    from lavis_mafa.core import losses

    settled = model({**batch}).mined.settled
    known_BB = torch.eye(len(batch["text_input"]), dtype=torch.bool)
    return losses.managed_itc_targets(settled, known_BB, 0, alpha=0.0, label_smoothing=0.0)


@pytest.mark.parametrize("direction", ["by text", "by image"])
def test_connection_is_a_target_of_its_anchor_alone(direction: str, batch: dict[str, Any]) -> None:
    scorer = verdicts(batch, direction)
    ((image, text),) = scorer.p
    i2t, t2i = targets(model_with(scorer), batch)
    anchored, other = (t2i, i2t) if direction == "by text" else (i2t, t2i)
    row, column = (text, image) if direction == "by text" else (image, text)
    expected = torch.eye(6)
    assert torch.equal(other, expected)
    expected[row, [row, column]] = 0.5
    assert torch.equal(anchored, expected)


def test_spare_of_an_ambiguous_pair_is_not_asked_for(batch: dict[str, Any]) -> None:
    by_text, by_image = candidate_pairs(batch)
    scorer = GivenVerdicts(rest=AMBIGUOUS)
    mined = model_with(scorer)({**batch}).mined
    assert set(scorer.asked) == {*by_text, *by_image}
    assert mined.counts["ambiguous"] == 12
    assert not mined.settled.connections.any()


def test_no_scorer_means_hard_negatives(batch: dict[str, Any]) -> None:
    """GRIT-VLP: what the scorer would have called a connection is a negative."""
    batch["epoch"] = 1
    check(model_with(None, action="keep"), batch, GivenVerdicts(), own(batch), alpha=0.5)


# ---- S-ITC, and what a step gives back


def test_smoothing_starts_with_the_epoch_that_the_settings_say(batch: dict[str, Any]) -> None:
    losses = [model_with(GivenVerdicts())({**batch, "epoch": epoch})["loss_itc"].item() for epoch in (0, 1, 2)]
    assert losses[0] != losses[1] == losses[2]
    later = [
        model_with(GivenVerdicts(), alpha_from_epoch=2)({**batch, "epoch": epoch})["loss_itc"].item()
        for epoch in (0, 1, 2)
    ]
    assert later == [losses[0], losses[0], losses[2]]
    off = [model_with(GivenVerdicts(), alpha=0.0)({**batch, "epoch": epoch})["loss_itc"].item() for epoch in (0, 1)]
    assert off == [losses[0], losses[0]]


def test_embeddings_are_the_query_that_fits_its_own_caption(batch: dict[str, Any]) -> None:
    model = model_with(GivenVerdicts())
    output, encoded = model({**batch}), model.encode({**batch})
    for image in range(6):
        best = (encoded.image_feat[image] @ encoded.text_feat[image]).argmax()
        torch.testing.assert_close(output.image_embed[image], encoded.image_feat[image, best])
    torch.testing.assert_close(output.text_embed, encoded.text_feat)
    torch.testing.assert_close(output.image_embed.norm(dim=1), torch.ones(6))
    assert not output.image_embed.requires_grad and not output.text_embed.requires_grad


@pytest.mark.parametrize("size", [1, 6])
def test_every_trained_parameter_gets_a_gradient(size: int, batch: dict[str, Any]) -> None:
    """DDP waits for a parameter that gets none, whatever was found in the batch."""
    model = model_with(GivenVerdicts()).train()
    model(part(batch, size)).loss.backward()
    assert [name for name, value in model.named_parameters() if value.requires_grad and value.grad is None] == []


def test_loss_is_the_sum_of_its_parts(batch: dict[str, Any]) -> None:
    output = model_with(GivenVerdicts())({**batch})
    assert set(output.losses) == {"loss_itc", "loss_itm", "loss_lm"}
    assert output["loss"].item() == pytest.approx(sum(value.item() for value in output.losses.values()), rel=1e-6)


@pytest.mark.parametrize("frozen", [True, False])
def test_tokens_in_a_batch_stand_for_a_frozen_tower_only(frozen: bool, batch: dict[str, Any]) -> None:
    """A trained tower's tokens must not linger in the samples: a second pass would train on stale ones."""
    model = loud(tiny_blip2(vit={"freeze_vit": frozen}, action="keep"))
    samples = {**batch}
    first = model(samples).loss
    assert ("image_tokens" in samples) is frozen
    again = model(samples).loss
    torch.testing.assert_close(first, again)
    again.backward()
    assert (model.visual_encoder.patches.weight.grad is None) is frozen
