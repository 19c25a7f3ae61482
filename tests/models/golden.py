"""The equations of one MAFA step, straight down the page, on LAVIS' own network: loops, and nothing of ours.

A batch is B images and texts; `p[i, t]` is Con-D's P(match); `same[i, t]` says that a pair is known to match.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

Pair = tuple[int, int]  # image, text


Settled = list[tuple[Pair, int, str]]  # pair, label, direction


def golden_step(
    lavis: Any,
    images: Tensor,
    texts: list[str],
    p: dict[Pair, float],
    same: set[Pair],
    *,
    low: float = 0.5,
    high: float = 0.8,
    alpha: float,
    once: bool = True,
    drop: bool = False,
    whole: bool = False,
    weighted: bool = False,
) -> dict[str, Any]:
    """whole: every pair of the batch is judged. weighted: a connection's target is proportional to its p."""
    B = len(texts)
    tokens = tokenized(lavis, texts)
    image_feat = F.normalize(lavis.vision_proj(lavis.forward_image(images)[0]), dim=-1)  # (B, Q, D)
    text_feat = F.normalize(lavis.text_proj(lavis.forward_text(tokens)), dim=-1)  # (B, D)
    cosine = [[(image_feat[i] @ text_feat[t]).max() for t in range(B)] for i in range(B)]
    verdicts = {pair: verdict(score, low, high) for pair, score in p.items()}
    dropped = set()
    if drop:  # a connection is ambiguous to ITM, and has no column in its anchor's row of the ITC
        found = mined_over_the_batch(cosine, verdicts, same)[1] if whole else mined(cosine, verdicts, same, once=False)
        dropped = {(pair, way) for pair, label, way in found if label}
        verdicts = {pair: "ambiguous" if word == "connection" else word for pair, word in verdicts.items()}
    settled = connected = mined(cosine, verdicts, same, once)
    if whole:
        settled, connected = mined_over_the_batch(cosine, verdicts, same)
    weights = {pair: p[pair] if weighted else 1.0 for pair, label, _ in connected if label}
    return {
        "loss_itc": itc(cosine, lavis.temp, connected, same, alpha, dropped, weights),
        **pair_losses(lavis, images, texts, settled, once),
        "settled": settled,
    }


def mined(cosine: list[list[Tensor]], verdicts: dict[Pair, str], same: set[Pair], once: bool) -> Settled:
    """Efficient connection mining: the hardest of every anchor, texts first; its spare where it is ambiguous."""
    B = len(cosine)
    asked: list[tuple[Pair, Pair | None, str]] = []
    for t in range(B):
        others = sorted((i for i in range(B) if (i, t) not in same), key=lambda i: -cosine[i][t].item())
        if others:
            asked.append(((others[0], t), (others[1], t) if len(others) > 1 else None, "t2i"))
    for i in range(B):
        others = sorted((t for t in range(B) if (i, t) not in same), key=lambda t: -cosine[i][t].item())
        if others:
            asked.append(((i, others[0]), (i, others[1]) if len(others) > 1 else None, "i2t"))
    asked_about = {pair: verdicts[pair] for pair, _, _ in asked}
    settled: Settled = []
    for pair, spare, direction in asked:
        if asked_about[pair] != "ambiguous":
            settled.append((pair, int(asked_about[pair] == "connection"), direction))
        elif spare is not None:
            # the other direction may have asked about the spare itself: then that verdict counts
            found = asked_about.get(spare, "negative") if once else "negative"
            if found != "ambiguous":
                settled.append((spare, int(found == "connection"), direction))
    return settled


def mined_over_the_batch(
    cosine: list[list[Tensor]], verdicts: dict[Pair, str], same: set[Pair]
) -> tuple[Settled, Settled]:
    """(pairs of ITM and LM: of every anchor its hardest negative, then of every anchor its most similar match; pairs of
    the ITC: every match, in both directions)."""
    B = len(cosine)
    anchors = [([(i, t) for i in range(B)], "t2i") for t in range(B)]
    anchors += [([(i, t) for t in range(B)], "i2t") for i in range(B)]
    settled: Settled = []
    for word, label in (("negative", 0), ("connection", 1)):
        for pairs, direction in anchors:
            found = [pair for pair in pairs if pair not in same and verdicts[pair] == word]
            if found:
                settled.append((max(found, key=lambda pair: cosine[pair[0]][pair[1]].item()), label, direction))
    matches = [pair for pair, word in verdicts.items() if pair not in same and word == "connection"]
    return settled, [(pair, 1, direction) for direction in ("t2i", "i2t") for pair in matches]


def itc(
    cosine: list[list[Tensor]],
    temp: Tensor,
    settled: Settled,
    same: set[Pair],
    alpha: float,
    dropped: set[tuple[Pair, str]],
    weights: dict[Pair, float],
) -> Tensor:
    """With connections and S-ITC: the target row is (own + known + its own connections) / count, then smoothed; without
    the dropped columns what is left of it sums to 1 again. A connection counts by its weight."""
    B, loss = len(cosine), torch.zeros(())
    for direction in ("i2t", "t2i"):
        for anchor in range(B):
            column = (lambda o, a=anchor: (a, o)) if direction == "i2t" else (lambda o, a=anchor: (o, a))
            found = {pair for pair, label, way in settled if label and way == direction}
            certain = [o for o in range(B) if column(o) in same or o == anchor]
            positive = {o: weights[column(o)] for o in range(B) if column(o) in found} | dict.fromkeys(certain, 1.0)
            scores = torch.stack([cosine[column(o)[0]][column(o)[1]] for o in range(B)]) / temp
            smoothing = alpha if alpha > 0 else 0.1  # LAVIS' own label smoothing where S-ITC is off
            columns = [o for o in range(B) if (column(o), direction) not in dropped]
            total = sum(positive.values())
            targets = [(1 - smoothing) * positive.get(o, 0.0) / total + smoothing / B for o in columns]
            for o, target in zip(columns, targets, strict=True):
                loss = loss - target / sum(targets) * (scores[o] - scores[columns].logsumexp(0)) / (2 * B)
    return loss


def pair_losses(lavis: Any, images: Tensor, texts: list[str], settled: Settled, once: bool) -> dict[str, Any]:
    """ITM: the own pairs and the settled ones; LM: the own pairs and the connections."""
    pairs: dict[Any, int] = {}
    for row, (pair, label, _) in enumerate(settled):
        key = pair if once else (pair, row)
        pairs[key] = max(label, pairs.get(key, 0))
    listed = [(key if once else key[0], label) for key, label in pairs.items()]
    matched = [((i, i), 1) for i in range(len(texts))] + listed
    loss_itm = sum(F.cross_entropy(itm(lavis, images, texts, pair), torch.tensor(label)) for pair, label in matched)
    matching = [pair for pair, label in matched if label]
    losses, count = zip(*(lm(lavis, images, texts, pair) for pair in matching), strict=True)
    return {"loss_itm": loss_itm / len(matched), "loss_lm": sum(losses) / sum(count)}  # a mean over all real tokens


def verdict(p: float, low: float, high: float) -> str:
    if p > high:
        return "connection"
    return "negative" if p < low else "ambiguous"


def tokenized(lavis: Any, texts: list[str]) -> Any:
    return lavis.tokenizer(
        texts, padding="max_length", truncation=True, max_length=lavis.max_txt_len, return_tensors="pt"
    )


def itm(lavis: Any, images: Tensor, texts: list[str], pair: Pair) -> Tensor:
    """(2,) logits: the head's mean over the queries that read image and text together."""
    tokens = tokenized(lavis, [texts[pair[1]]])
    queries = lavis.query_tokens
    seen = lavis.ln_vision(lavis.visual_encoder(images[pair[0]][None]))
    output = lavis.Qformer.bert(
        tokens.input_ids,
        query_embeds=queries,
        attention_mask=torch.cat([torch.ones(queries.shape[:2], dtype=torch.long), tokens.attention_mask], dim=1),
        encoder_hidden_states=seen,
        encoder_attention_mask=torch.ones(seen.shape[:2], dtype=torch.long),
        return_dict=True,
    )
    return lavis.itm_head(output.last_hidden_state[:, : queries.shape[1]]).mean(1)[0]


def lm(lavis: Any, images: Tensor, texts: list[str], pair: Pair) -> tuple[Tensor, int]:
    """(sum of the smoothed cross-entropies of the caption's tokens, their number), by LAVIS' decoder."""
    tokens = tokenized(lavis, [texts[pair[1]]])
    seen = lavis.ln_vision(lavis.visual_encoder(images[pair[0]][None]))
    ones = torch.ones(lavis.query_tokens.shape[:2], dtype=torch.long)
    cache = lavis.Qformer.bert(
        query_embeds=lavis.query_tokens,
        encoder_hidden_states=seen,
        encoder_attention_mask=torch.ones(seen.shape[:2], dtype=torch.long),
        use_cache=True,
        return_dict=True,
    ).past_key_values
    ids = tokens.input_ids.clone()
    ids[:, 0] = lavis.tokenizer.bos_token_id
    labels = ids.masked_fill(ids == lavis.tokenizer.pad_token_id, -100)
    output = lavis.Qformer(
        ids,
        attention_mask=torch.cat([ones, tokens.attention_mask], dim=1),
        past_key_values=cache,
        return_dict=True,
        labels=labels,
    )
    count = int((labels[:, 1:] != -100).sum())
    return output.loss * count, count
