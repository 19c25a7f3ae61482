"""A cross-encoder as judge: one network reads an own caption of the image and the candidate caption together.

    run.con_d: {arch: cross_encoder, encoder: cross-encoder/stsb-roberta-base}

Any AutoModelForSequenceClassification: similarity networks and rerankers of one output, classifiers of two, and NLI
networks, of which the entailment counts. It looks at no image. Tested in tests/scorers/test_cross_encoder.py by hand.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor
from transformers import AutoModelForSequenceClassification

from lavis_mafa.common.hashing import digest
from lavis_mafa.core.batch import Batch
from lavis_mafa.data.own_captions import OwnCaptions
from lavis_mafa.encoders.frozen import load_frozen, named_folder, weights_digest
from lavis_mafa.encoders.text_encoder import length_limit, load_tokenizer
from lavis_mafa.scorers.captions import own_of, same_texts
from lavis_mafa.scorers.registry import JUDGES, Judge, ScorerRequest

BATCH = 64  # pairs of captions
ENTAILMENT = "entailment"


@dataclass(frozen=True)
class CrossEncoderScorer:
    """PairScorer over (own caption, candidate): the largest probability that any own caption gives.

    An annotated pair is compared with the image's other captions, and counts as sure where there are none.
    column: of the network's outputs the one that says that two captions agree.
    """

    model: Any
    tokenizer: Any
    column: int
    max_length: int
    own: OwnCaptions | None
    counts: dict[str, int] = field(default_factory=lambda: {"pairs_of_captions_read": 0, "pairs_of_captions_cut": 0})
    reads_captions_alone: ClassVar[bool] = True

    @cached_property
    def weights_fingerprint(self) -> str:
        words = sorted(self.tokenizer.get_vocab().items())
        return f"cross_encoder:{digest(weights_digest(self.model), self.column, self.max_length, words)}"

    @cached_property
    def fingerprint(self) -> str:
        known = () if self.own is None else (self.own.image_id_N, self.own.offsets, *self.own.captions.to_pylist())
        return f"{self.weights_fingerprint}:{digest(*known)}"

    @torch.no_grad()
    def score(self, batch: Batch, image_K: Tensor, text_K: Tensor) -> Tensor:
        """(K,) probability that text_K[k] agrees with a caption of image image_K[k]."""
        images, image_of_K = torch.unique(image_K, return_inverse=True)
        own, captions = own_of(batch, images, self.own), batch["caption"]
        read = self.own.text_processor if self.own else str
        asked: dict[tuple[str, str], int] = {}
        pair_P, place_P = (
            [],
            [],
        )  # pairs of captions: the pair of the batch that they speak for, and their place in asked
        p_K = torch.ones(len(image_K))
        for pair, (image, text) in enumerate(zip(image_of_K.tolist(), text_K.tolist(), strict=True)):
            same_O = same_texts(own[image], [captions[text]], read)[:, 0].tolist()
            others = [caption for caption, same in zip(own[image], same_O, strict=True) if not same]
            p_K[pair] = 0 if others else 1
            for caption in others:
                pair_P.append(pair)
                place_P.append(asked.setdefault((caption, captions[text]), len(asked)))
        if asked:
            p_P = self._probabilities(list(asked))[torch.tensor(place_P)]
            p_K.scatter_reduce_(0, torch.tensor(pair_P), p_P, "amax")
        return p_K.to(image_K.device)

    def _probabilities(self, pairs: list[tuple[str, str]]) -> Tensor:
        """(P,) of pairs of captions, those of like length together."""
        tokens = self.tokenizer(*map(list, zip(*pairs, strict=True)), truncation=False, verbose=False)
        length_P = [len(ids) for ids in tokens.input_ids]
        self.counts["pairs_of_captions_read"] += len(pairs)
        self.counts["pairs_of_captions_cut"] += sum(length > self.max_length for length in length_P)
        order, p_P = sorted(range(len(pairs)), key=length_P.__getitem__), torch.empty(len(pairs))
        for start in range(0, len(pairs), BATCH):
            at = order[start : start + BATCH]
            own, candidates = map(list, zip(*(pairs[one] for one in at), strict=True))
            limits = {"padding": True, "truncation": True, "max_length": self.max_length, "return_tensors": "pt"}
            with torch.autocast(self.model.device.type, enabled=False):
                logits_PC = self.model(**self.tokenizer(own, candidates, **limits).to(self.model.device)).logits.float()
            single = logits_PC.shape[1] == 1
            p_P[at] = (logits_PC.sigmoid() if single else logits_PC.softmax(dim=1))[:, self.column].cpu()
        return p_P

    def report(self) -> dict[str, int]:
        """How many different pairs of captions it read, and how many of them are longer than it reads."""
        return dict(self.counts)


def build_cross_encoder(request: ScorerRequest) -> CrossEncoderScorer:
    """Build the judge `cross_encoder`.

    Raises:
        ValueError: no encoder named, one that is partly loaded, or outputs that do not say which one agrees.
    """
    where, name = f"{request.where}.encoder", request.section.get("encoder")
    if not name:
        raise ValueError(
            f"{request.where}: arch cross_encoder needs encoder, a network's folder or hub name (e.g. "
            "cross-encoder/stsb-roberta-base, or an NLI network)"
        )
    model = load_frozen(AutoModelForSequenceClassification, str(name), where, request.device, needs_pooler=True)
    tokenizer = load_tokenizer(str(name), where)
    longest = length_limit(str(name), request.section.get("max_length"), model, tokenizer, where)
    return CrossEncoderScorer(model, tokenizer, _column(model.config, where), longest, request.own_captions)


def _column(config: Any, where: str) -> int:
    names = {int(number): str(name).lower() for number, name in config.id2label.items()}
    if ENTAILMENT in names.values():
        return next(number for number, name in names.items() if name == ENTAILMENT)
    if len(names) > 2:
        raise ValueError(
            f"{where}: of the outputs {', '.join(names.values())} none is called {ENTAILMENT}: choose a network with "
            "one output, with two, or of NLI"
        )
    return len(names) - 1


JUDGES.add("cross_encoder")(
    Judge(
        build_cross_encoder,
        ("encoder", "max_length"),
        files=lambda section: named_folder(section, "encoder"),
        costs="a cross-encoder; one pass for every own caption and candidate",
    )
)
