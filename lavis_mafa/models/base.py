"""The one forward of every MAFA model: encode → similarities → mine → losses.

An adapter says how it encodes, what a similarity is, and which losses a pair has; nothing of GRIT, ECM or S-ITC is
written anywhere else.
Shapes: B local batch, W gathered width (B · ranks), Q queries of an image (1 for ALBEF), D embedding,
K settled pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from lavis.models.base_model import all_gather_with_grad, concat_all_gather
from torch import Tensor

from lavis_mafa.common.precision import full_float32
from lavis_mafa.common.ranks import get_rank, get_world_size
from lavis_mafa.core import losses
from lavis_mafa.core.batch import Batch, sent
from lavis_mafa.core.miner import ConnectionMiner, MinedPairs
from lavis_mafa.core.pairs import SettledPairs, known_positives, own_positives
from lavis_mafa.core.settings import MafaSettings
from lavis_mafa.core.targets import TARGETS, ItcStep
from lavis_mafa.models.teacher import Lesson, Teacher


@dataclass
class Encoded:
    """A batch after its encoders. The features have unit length; `state` is what the pair losses need."""

    image_feat: Tensor  # (B, Q, D)
    text_feat: Tensor  # (B, D)
    state: Any
    lesson: Lesson | None = None


@dataclass
class MafaOutput:
    """What a step gives back: the losses, the pairs it found, and the ITC embeddings GRIT plans with."""

    loss: Tensor
    losses: dict[str, Tensor]
    mined: MinedPairs
    pairs: SettledPairs  # those that ITM and the text loss saw
    image_embed: Tensor  # (B, D)
    text_embed: Tensor  # (B, D)
    logged: dict[str, Tensor] = field(default_factory=dict)  # scalars for the journal, beside the losses
    targets: Tensor | None = None  # (2, B, B) what the ITC was to learn of the rank's own columns, a row an anchor

    @property
    def kept(self) -> dict[str, Tensor]:
        """What GRIT stores of the step."""
        return {"image_embed": self.image_embed, "text_embed": self.text_embed}

    def __getitem__(self, name: str) -> Any:  # LAVIS reads model(samples)["loss"]
        return self.losses[name] if name in self.losses else getattr(self, name)


class MafaForward:
    """Mixin over a LAVIS model. Set `mafa` (settings) and `miner`; the task hands in a miner with Con-D."""

    mafa: MafaSettings
    miner: ConnectionMiner
    teacher: Teacher | None = None  # for targets momentum; the task hands it in
    has_itm = True  # a dual encoder has no matching head, so nothing to re-rank with

    @property
    def embed_dim(self) -> int:
        """D of the ITC embeddings."""
        return int(self.text_proj.out_features)

    def encode(self, samples: Batch) -> Encoded:
        raise NotImplementedError

    def match_logits(self, state: Any, image_K: Tensor, text_K: Tensor) -> Tensor:
        """ITM logits (K, 2) of the pairs (image_K[k], text_K[k]), positions in the batch."""
        raise NotImplementedError

    def text_loss(self, encoded: Encoded, image_K: Tensor, text_K: Tensor) -> dict[str, Tensor]:
        """MLM or LM loss of the pairs (image_K[k], text_K[k]), positions on the CPU, under its name."""
        raise NotImplementedError

    def forward(self, samples: Batch) -> MafaOutput:
        encoded = self.encode(samples)
        if self.mafa.needs_teacher:
            assert self.teacher is not None, "these targets need a teacher, as mafa_pretrain builds it"
            encoded.lesson = self.teacher.lesson(self, samples)
        batch = len(encoded.text_feat)
        known_BB = self._known(samples, batch)
        known_BW, first = self._known_of_all(samples, known_BB, encoded.text_feat.device)
        own = slice(first, first + batch)
        sim_i2t_BW, sim_t2i_BW = self._similarities(encoded)
        local = [(sim_BW[:, own] / self.temp).detach() for sim_BW in (sim_i2t_BW, sim_t2i_BW)]
        mined = self.miner.mine(samples, *local, known_BB, torch.default_generator)
        pairs = mined.settled.once() if self.mafa.pairs_once else mined.settled
        itc, targets = self._itc(
            encoded, (sim_i2t_BW, sim_t2i_BW), known_BW, first, mined, int(samples.get("epoch", 0))
        )
        of_pairs, logged = self.pair_losses(encoded, pairs)
        parts = {**itc, **of_pairs}
        image_embed = _query_that_fits(encoded.image_feat.detach(), encoded.text_feat.detach())
        learnt = torch.stack([target_BW[:, own].detach() for target_BW in targets])
        text_embed = encoded.text_feat.detach()
        return MafaOutput(sum(parts.values()), parts, mined, pairs, image_embed, text_embed, logged, learnt)

    def _known(self, samples: Batch, batch: int) -> Tensor:
        """(B, B) mask of own and known positives of the rank's own batch, on the CPU."""
        known_BB = own_positives(batch, batch)
        if self.mafa.known_positives and "image_id" in samples:
            known_BB = known_BB | known_positives(samples["image_id"].cpu(), samples["text_id"].cpu())
        return known_BB

    def _known_of_all(self, samples: Batch, known_BB: Tensor, device: torch.device) -> tuple[Tensor, int]:
        """(B, W) mask of own and known positives, and the first of this rank's own columns."""
        batch, world = len(known_BB), get_world_size()
        if not self.mafa.itc_gather or world == 1:
            return sent(known_BB, device), 0
        first = get_rank() * batch
        known_BW = own_positives(batch, world * batch, first, device)
        if self.mafa.known_positives and "image_id" in samples:
            ids = [sent(samples["image_id"], device), sent(samples["text_id"], device)]
            known_BW = known_BW | known_positives(*ids, *map(concat_all_gather, ids))
        return known_BW, first

    def _similarities(self, encoded: Encoded) -> tuple[Tensor, Tensor]:
        """Cosines (B, W) of own images with all texts and of own texts with all images; keys detached by default."""
        image, text = encoded.image_feat.float(), encoded.text_feat.float()
        gather = all_gather_with_grad if self.mafa.itc_key_grad else concat_all_gather
        gathered = self.mafa.itc_gather and get_world_size() > 1
        image_keys, text_keys = (gather(image), gather(text)) if gathered else (image, text)
        if not self.mafa.itc_key_grad:
            image_keys, text_keys = image_keys.detach(), text_keys.detach()
        with full_float32(image.device.type):
            sim_i2t = torch.einsum("bqd,wd->bwq", image, text_keys).amax(-1)
            sim_t2i = torch.einsum("bd,wqd->bwq", text, image_keys).amax(-1)
        return sim_i2t, sim_t2i

    def _itc(
        self,
        encoded: Encoded,
        sim_2BW: tuple[Tensor, Tensor],
        known_BW: Tensor,
        first: int,
        mined: MinedPairs,
        epoch: int,
    ) -> tuple[dict[str, Tensor], Sequence[Tensor]]:
        """Soft cross-entropy over the columns, and what the targets may learn beside it (core/targets.py).

        Also returns the targets (B, W) of both directions, as all losses together set them.
        """
        kind, teacher = TARGETS[self.mafa.targets], None
        logits = [sim_BW / self.temp for sim_BW in sim_2BW]
        if encoded.lesson is not None:
            i2t_BW, t2i_BW = self._similarities(encoded.lesson.encoded)
            teacher = (i2t_BW / self.temp, t2i_BW / self.temp), encoded.lesson.alpha
        targets = kind.rows(ItcStep(self.mafa, epoch, mined.itc_pairs, known_BW, first, teacher))
        dropped_2BW = self._left_out_of_itc(mined, known_BW, first)
        if dropped_2BW is not None:
            logits, targets = zip(*map(losses.leave_out, logits, targets, dropped_2BW), strict=True)
        found = {"loss_itc": losses.itc_loss(*logits, *targets)}
        if kind.beside is not None:
            weight, beside = kind.beside(self.mafa, *logits)
            found[f"loss_{self.mafa.targets}"] = weight * losses.itc_loss(*logits, *beside)
            # y and w·s learnt together are (y + w·s) / (1 + w), scaled
            targets = [(own + weight * other) / (1 + weight) for own, other in zip(targets, beside, strict=True)]
        return found, targets

    def _left_out_of_itc(self, mined: MinedPairs, known_BW: Tensor, first: int) -> Tensor | None:
        """(2, B, W) bool, image→text and text→image: what `action: drop` masks (as GISTEmbed, arXiv 2402.16829); None:
        every pair has a part in the ITC."""
        if self.mafa.action != "drop" or mined.matches_C is None:
            return None
        matched_2BW = losses.matched_masks(mined.candidates, mined.matches_C, *known_BW.shape, first)
        return sent(matched_2BW, known_BW.device) & ~known_BW

    def pair_losses(self, encoded: Encoded, pairs: SettledPairs) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """ITM and the text loss, means over the rank's own pairs: ranks count alike, however many each found; and what
        is logged beside them. A dual encoder has none."""
        loss, accuracy = self._itm(encoded, pairs)
        return {"loss_itm": loss, **self._text(encoded, pairs)}, {"itm_accuracy": accuracy}

    def _itm(self, encoded: Encoded, pairs: SettledPairs) -> tuple[Tensor, Tensor]:
        """Loss and balanced accuracy of the matching head."""
        own, device = torch.arange(len(encoded.text_feat)), encoded.text_feat.device
        rows = [sent(torch.cat([own, place_K]), device) for place_K in (pairs.image_K, pairs.text_K)]
        logits = self.match_logits(encoded.state, *rows)
        labels = sent(losses.itm_labels(len(own), pairs), device)
        return losses.itm_loss(logits, labels), losses.itm_accuracy(logits.detach(), labels)

    def _text(self, encoded: Encoded, pairs: SettledPairs) -> dict[str, Tensor]:
        own = torch.arange(len(encoded.text_feat))
        found = pairs.connections
        return self.text_loss(encoded, torch.cat([own, pairs.image_K[found]]), torch.cat([own, pairs.text_K[found]]))


def _query_that_fits(image_BQD: Tensor, text_BD: Tensor) -> Tensor:
    """Of an image's queries the one that fits its own caption best (B, D): what GRIT stores of an image."""
    best = torch.einsum("bqd,bd->bq", image_BQD.float(), text_BD.float()).argmax(1)
    return image_BQD[torch.arange(len(best), device=best.device), best]
