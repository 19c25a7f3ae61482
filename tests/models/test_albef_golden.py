"""One whole step of mafa_albef against a straight-line transcription of the equations, pair by pair, in plain Python.

The batch has connections in both directions, ambiguous pairs with a spare, a known positive, and negatives; a second
batch has none of these. Only the network's modules are shared with the code under test.
"""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lavis_mafa.core.miner import ConnectionMiner
from tests.models.tiny_albef import tiny_mafa_albef

LOW, HIGH, ALPHA, SIZE = 0.5, 0.8, 0.5, 6


class TableScorer:
    """Con-D as a table: P(match) of every image and text of the batch."""

    fingerprint = "table"

    def __init__(self, p: Tensor) -> None:
        self.p = p

    def score(self, batch: Any, image_K: Tensor, text_K: Tensor) -> Tensor:
        return self.p[image_K, text_K]


def encoders(model: Any, batch: dict[str, Any]) -> dict[str, Any]:
    """ALBEF, section 3.1: ViT and the text half of BERT, [CLS] to unit length; similarities over temperature.

    The key of a similarity takes no gradient, as in the authors' code.
    """
    image_embeds = model.visual_encoder(batch["image"])
    tokens = model.tokenizer(batch["text_input"], padding="longest", return_tensors="pt")
    text_embeds = model.text_encoder.bert(
        tokens.input_ids, attention_mask=tokens.attention_mask, return_dict=True, mode="text"
    ).last_hidden_state
    image = [F.normalize(model.vision_proj(row[0]), dim=0) for row in image_embeds]
    text = [F.normalize(model.text_proj(row[0]), dim=0) for row in text_embeds]
    temp = model.temp
    return {
        "image_embeds": image_embeds,
        "text_embeds": text_embeds,
        "ids": tokens.input_ids,
        "mask": tokens.attention_mask,
        "i2t": [[image[i] @ text[t].detach() / temp for t in range(SIZE)] for i in range(SIZE)],
        "t2i": [[text[t] @ image[i].detach() / temp for i in range(SIZE)] for t in range(SIZE)],
    }


def two_hardest(of: dict[str, Any], known: set[tuple[int, int]]) -> list[tuple[str, tuple[int, int], tuple[int, int]]]:
    """(anchor, hardest pair, second-hardest pair) of every text, then of every image; pairs are (image, text)."""
    found = []
    for row in range(SIZE):
        ranked = sorted((i for i in range(SIZE) if (i, row) not in known), key=lambda i: -float(of["t2i"][row][i]))
        found.append(("text", (ranked[0], row), (ranked[1], row)))
    for row in range(SIZE):
        ranked = sorted((t for t in range(SIZE) if (row, t) not in known), key=lambda t: -float(of["i2t"][row][t]))
        found.append(("image", (row, ranked[0]), (row, ranked[1])))
    return found


def verdict(score: float) -> str:
    return "connection" if score > HIGH else "negative" if score < LOW else "ambiguous"


def mined(of: dict[str, Any], p: Tensor, known: set[tuple[int, int]]) -> list[tuple[int, int, int, str]]:
    """ECM (MAFA, section 4.2): (image, text, label, anchor) of every anchor that keeps a pair.

    A spare that the other direction put to Con-D follows that verdict (core/pairs.py, reconcile).
    """
    hardest = two_hardest(of, known)
    verdicts = {pair: verdict(float(p[pair])) for _, pair, _ in hardest}
    found = []
    for anchor, pair, spare in hardest:
        kept, word = (
            (spare, verdicts.get(spare, "negative")) if verdicts[pair] == "ambiguous" else (pair, verdicts[pair])
        )
        if word != "ambiguous":
            found.append((*kept, int(word == "connection"), anchor))
    return found


def itc(
    of: dict[str, Any], pairs: list[tuple[int, int, int, str]], known: set[tuple[int, int]], alpha: float
) -> Tensor:
    """ITC with connections and S-ITC (MAFA, eq. 4 and 5): (1 - α)·y + α/B."""
    total = torch.zeros(())
    for anchor, name in (("image", "i2t"), ("text", "t2i")):
        for row in range(SIZE):
            positive = {(t if anchor == "image" else i) for i, t in known if (i if anchor == "image" else t) == row}
            for i, t, label, of_anchor in pairs:
                if label == 1 and of_anchor == anchor and (i if anchor == "image" else t) == row:
                    positive.add(t if anchor == "image" else i)
            logits = of[name][row]
            log_sum = torch.logsumexp(torch.stack(logits), dim=0)
            for column in range(SIZE):
                target = (1 - alpha) * (column in positive) / len(positive) + alpha / SIZE
                total = total - target * (logits[column] - log_sum) / SIZE / 2
    return total


def itm(model: Any, of: dict[str, Any], pairs: list[tuple[int, int, int]]) -> Tensor:
    """ALBEF, eq. 2, over own pairs, connections and negatives: one pair at a time through the fusion half."""
    losses = []
    for i, t, label in pairs:
        length = int(of["mask"][t].sum())
        state = model.text_encoder.bert(
            encoder_embeds=of["text_embeds"][t : t + 1, :length],
            attention_mask=of["mask"][t : t + 1, :length],
            encoder_hidden_states=of["image_embeds"][i : i + 1],
            return_dict=True,
            mode="fusion",
        ).last_hidden_state[0, 0]
        logits = model.itm_head(state)
        losses.append(torch.logsumexp(logits, dim=0) - logits[label])
    return torch.stack(losses).mean()


def mlm(model: Any, of: dict[str, Any], pairs: list[tuple[int, int]]) -> Tensor:
    """ALBEF, eq. 3: half of the tokens are predicted; 80 % of these are [MASK], 10 % a random word, 10 % left."""
    tokenizer, vocab = model.tokenizer, model.text_encoder.config.vocab_size
    ids = torch.stack([of["ids"][t] for _, t in pairs])
    chosen, masked, swapped = (torch.bernoulli(torch.full(ids.shape, chance)).bool() for chance in (0.5, 0.8, 0.5))
    words = torch.randint(vocab, ids.shape)
    losses = []
    for k, (i, t) in enumerate(pairs):
        shown, places = ids[k].clone(), []
        for place, token in enumerate(ids[k].tolist()):
            if not chosen[k, place] or token in (tokenizer.pad_token_id, tokenizer.cls_token_id):
                continue
            places.append(place)
            if masked[k, place]:
                shown[place] = tokenizer.mask_token_id
            elif swapped[k, place]:
                shown[place] = words[k, place]
        logits = model.text_encoder(
            shown[None],
            attention_mask=of["mask"][t : t + 1],
            encoder_hidden_states=of["image_embeds"][i : i + 1],
            return_dict=True,
            return_logits=True,
        )[0]
        losses += [torch.logsumexp(logits[place], dim=0) - logits[place, ids[k, place]] for place in places]
    return torch.stack(losses).mean()


def step(
    model: Any, batch: dict[str, Any], p: Tensor, epoch: int
) -> tuple[dict[str, Tensor], list[tuple[int, int, int, str]]]:
    same = [(a, b) for a in range(SIZE) for b in range(SIZE)]
    known = {
        (i, t)
        for i, t in same
        if batch["image_id"][i] == batch["image_id"][t] or batch["text_id"][i] == batch["text_id"][t]
    }
    of = encoders(model, batch)
    with torch.no_grad():
        anchored = mined(of, p, known)
    # in the order they were found, which is that of the masks' draw
    once = list(dict.fromkeys((i, t, label) for i, t, label, _ in anchored))
    own = [(row, row) for row in range(SIZE)]
    losses = {
        "loss_itc": itc(of, anchored, known, ALPHA if epoch > 0 else 0.0),
        "loss_itm": itm(model, of, [(i, t, 1) for i, t in own] + once),
        "loss_mlm": mlm(model, of, own + [(i, t) for i, t, label in once if label == 1]),
    }
    return losses, anchored


def hardest_of(model: Any, batch: dict[str, Any]) -> list[tuple[int, int, int, str]]:
    with torch.no_grad():
        return step(model, batch, torch.zeros(SIZE, SIZE), 0)[1]


def eventful(model: Any, batch: dict[str, Any]) -> Tensor:
    """P(match) that makes of the hardest pairs, both ways, connections, ambiguous pairs and negatives."""
    p = torch.full((SIZE, SIZE), 0.3)
    for place, (i, t, _, _) in enumerate(hardest_of(model, batch)):
        p[i, t] = (0.95, 0.65, 0.1)[place % 3]
    return p


@pytest.fixture
def model() -> Any:
    model = tiny_mafa_albef().eval()
    with torch.no_grad():
        for parameter in model.parameters():  # an untrained network tells nothing apart
            if parameter.dim() > 1:
                parameter.mul_(3)
    return model


def compare(model: Any, batch: dict[str, Any], p: Tensor, epoch: int) -> list[tuple[int, int, int, str]]:
    model.miner = ConnectionMiner(model.mafa, TableScorer(p))
    torch.manual_seed(11)
    expected, anchored = step(model, batch, p, epoch)
    sum(expected.values()).backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    model.zero_grad(set_to_none=True)
    torch.manual_seed(11)
    output = model({**batch, "epoch": epoch})
    for name, value in expected.items():
        assert output[name].item() == pytest.approx(value.item(), rel=1e-5), name
    assert output.loss.item() == pytest.approx(sum(value.item() for value in expected.values()), rel=1e-5)
    output.loss.backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[name], atol=1e-5, rtol=1e-3, msg=name)
    return anchored


@pytest.mark.parametrize("known", ["image_id", "text_id"])
@pytest.mark.parametrize("epoch", [0, 1])
def test_a_step_with_everything_in_it(model: Any, batch: dict[str, Any], epoch: int, known: str) -> None:
    """A known positive: two captions of one image, or one caption of two images."""
    batch[known][3] = batch[known][0]
    if known == "text_id":
        batch["text_input"][3] = batch["text_input"][0]
    p = eventful(model, batch)
    hardest = {(i, t, anchor) for i, t, _, anchor in hardest_of(model, batch)}
    anchored = compare(model, batch, p, epoch)
    for anchor in ("text", "image"):
        labels = [label for _, _, label, of in anchored if of == anchor]
        assert 0 in labels and 1 in labels
        assert any((i, t, of) not in hardest for i, t, _, of in anchored if of == anchor)  # a spare stands in
    assert all({i, t} != {0, 3} for i, t, _, _ in anchored)


def test_a_step_with_nothing_in_it(model: Any, batch: dict[str, Any]) -> None:
    anchored = compare(model, batch, torch.zeros(SIZE, SIZE), 1)
    assert not any(label for _, _, label, _ in anchored)


def test_the_transcription_sees_what_it_should(model: Any, batch: dict[str, Any]) -> None:
    """Each event changes the losses it belongs to, so that the comparison above could fail."""
    quiet, loud = torch.zeros(SIZE, SIZE), eventful(model, batch)
    with torch.no_grad():
        torch.manual_seed(11)
        without = step(model, batch, quiet, 1)[0]
        torch.manual_seed(11)
        found = step(model, batch, loud, 1)[0]
    assert all(not math.isclose(found[name].item(), without[name].item(), rel_tol=1e-4) for name in found)
