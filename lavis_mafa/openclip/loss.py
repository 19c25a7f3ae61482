"""open_clip's losses with MAFA: S-ITC, known positives, connections, dropped pairs.

Tested in tests/openclip/test_loss.py and, on 2 and 4 ranks, in test_ranks.py.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from open_clip import loss as open_clip_loss
from torch import Tensor, nn

from lavis_mafa.core.losses import itc_targets, leave_out, smooth_own_columns, soft_cross_entropy
from lavis_mafa.openclip.judges import BiEncoderJudge, unit_length
from lavis_mafa.openclip.masks import PairMasks
from lavis_mafa.openclip.step import Step, gather_rows


class _Managed(nn.Module):
    """What both losses share: a mixin before open_clip's loss, which has the call where nothing is managed."""

    rank: int
    world_size: int

    def __init__(
        self,
        *args: object,
        alpha: float = 0.0,
        connections: Tensor | None = None,
        connection_weight: Tensor | None = None,
        judge: BiEncoderJudge | None = None,
        **kwargs: object,
    ) -> None:
        super().__init__(*args, **kwargs)
        if not 0 <= alpha <= 1:
            raise ValueError(f"alpha is {alpha!r}; it must be a number in [0, 1], where 0 turns S-ITC off")
        if connections is not None and (connections.dim() != 2 or connections.shape[1] != 2):
            raise ValueError(
                f"connections has shape {tuple(connections.shape)}: it must be (P, 2): an image id and a text id "
                "per row"
            )
        if getattr(self, "use_horovod", False):
            raise ValueError(f"{type(self).__name__} gathers by torch.distributed: leave out use_horovod")
        _check_weights(connections, connection_weight)
        self.alpha, self.connections, self.judge = alpha, connections, judge
        self.connection_weight = connection_weight

    def forward(
        self,
        image_features: Tensor,
        text_features: Tensor,
        logit_scale: Tensor,
        logit_bias: Tensor | None = None,
        output_dict: bool = False,
        *,
        image_id: Tensor | None = None,
        text_id: Tensor | None = None,
        pairs: PairMasks | None = None,
        judge_image_features: Tensor | None = None,
        judge_text_features: Tensor | None = None,
    ) -> Tensor | dict[str, Tensor]:
        """The loss, a scalar, or with output_dict {"contrastive_loss": loss}.

        image_features, text_features: (B, D) of unit length. image_id, text_id: (B,) int64; pairs of one image or one
        caption are positives. pairs: what a PairJudge or a miner found in this rank's batch. judge_image_features,
        judge_text_features: (B, G), read by the judge. All keywords may travel in the model's output dictionary.

        Raises:
            ValueError: ids or the judge's features are missing that a setting needs.
        """
        model_out = image_features, text_features, logit_scale, logit_bias
        step = self._step(image_features, image_id, text_id, pairs, judge_image_features, judge_text_features)
        if step is None:
            plain: Tensor | dict[str, Tensor] = super().forward(*model_out, output_dict=output_dict)
            return plain
        loss = self._managed(step, *model_out)
        return {"contrastive_loss": loss} if output_dict else loss

    def _managed(
        self, step: Step, image_BD: Tensor, text_BD: Tensor, logit_scale: Tensor, logit_bias: Tensor | None
    ) -> Tensor:
        """The loss of a step that has something to manage."""
        raise NotImplementedError

    def _step(
        self,
        features_BD: Tensor,
        image_id: Tensor | None,
        text_id: Tensor | None,
        pairs: PairMasks | None,
        judge_image_features: Tensor | None,
        judge_text_features: Tensor | None,
    ) -> Step | None:
        """None where there is nothing to manage."""
        if (image_id is None) != (text_id is None):
            raise ValueError("image_id and text_id belong together: pass both or neither")
        if (judge_image_features is None) != (judge_text_features is None):
            raise ValueError("judge_image_features and judge_text_features belong together: pass both or neither")
        if self.connections is not None and image_id is None:
            raise ValueError("connections are looked up by id: pass image_id and text_id with the features")
        if self.judge is not None and judge_image_features is None:
            raise ValueError("the judge needs judge_image_features and judge_text_features of the batch")
        for name, given in (("image_id", image_id), ("text_id", text_id)):
            if given is not None and (not isinstance(given, Tensor) or given.shape != features_BD.shape[:1]):
                what = tuple(given.shape) if isinstance(given, Tensor) else type(given).__name__
                raise ValueError(f"{name} is {what}: it must be a tensor ({len(features_BD)},), one id a pair")
        ids = features = None
        if image_id is not None and text_id is not None:
            ids = image_id.to(features_BD.device), text_id.to(features_BD.device)
        if self.judge is not None and judge_image_features is not None and judge_text_features is not None:
            features = unit_length(judge_image_features), unit_length(judge_text_features)
        if not (self.alpha or ids or pairs or features):
            return None
        if self.connections is not None:
            self.connections = self.connections.to(features_BD.device)  # moved once
            if self.connection_weight is not None:
                self.connection_weight = self.connection_weight.to(features_BD.device)
        where = len(features_BD), self.rank, self.world_size, features_BD.device
        return Step(*where, ids, self.connections, self.connection_weight, pairs, self.judge, features)


def _check_weights(connections: Tensor | None, weight: Tensor | None) -> None:
    if weight is None:
        return
    if connections is None or weight.shape != connections.shape[:1]:
        raise ValueError("connection_weight needs connections, and one weight for each of them")
    if not ((weight >= 0) & (weight <= 1)).all():  # NaN fails too
        raise ValueError("connection_weight must be numbers in [0, 1]")
    if len({*map(tuple, connections.tolist())}) < len(connections):
        raise ValueError("connections lists a pair twice, so that its weight is unclear: list it once")


class MafaClipLoss(_Managed, open_clip_loss.ClipLoss):
    """open_clip.ClipLoss that manages false negatives (MAFA, arXiv 2312.06112). With nothing to manage it is ClipLoss.

    Beyond ClipLoss' own arguments (all of them, in their order):
        alpha: S-ITC smoothing over the rank's own columns; set the attribute between epochs (MAFA: 0, then 0.5).
        connections: (P, 2) int64, image_id and text_id of pairs that are known to match.
        connection_weight: (P,) float in [0, 1], what each weighs in its target beside an own pair's 1; None: 1 each.
        judge: finds false negatives by the similarities of another pair of encoders.

    Raises:
        ValueError: an alpha outside [0, 1], connections or weights of another shape, or Horovod.
    """

    local_loss: bool
    get_logits: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]

    def _managed(
        self, step: Step, image_BD: Tensor, text_BD: Tensor, logit_scale: Tensor, logit_bias: Tensor | None
    ) -> Tensor:
        # a bias common to all logits moves no softmax, so it is left out here
        logits_2RW = self.get_logits(image_BD, text_BD, logit_scale)
        directions = zip(logits_2RW, *self._targets(step), strict=True)
        i2t, t2i = (soft_cross_entropy(*leave_out(*direction)) for direction in directions)
        return (i2t + t2i) / 2

    def _targets(self, step: Step) -> tuple[list[Tensor], list[Tensor]]:
        """Targets and dropped pairs of each direction, (R, W): R is B, or W where each rank computes the whole loss."""
        positive_2BW, dropped_2BW = step.by_anchor()
        own_col_B = torch.arange(step.first_col, step.first_col + step.B, device=step.device)
        targets = []
        for positive_BW in positive_2BW:
            target_BW = itc_targets(own_col_B, positive_BW == 1, positive_BW)
            targets.append(smooth_own_columns(target_BW, self.alpha, step.first_col, step.B))
        world = 1 if self.local_loss else step.world
        return (
            [gather_rows(target_BW, world) for target_BW in targets],
            [gather_rows(dropped_BW.byte(), world).bool() for dropped_BW in dropped_2BW],
        )


class MafaSigLipLoss(_Managed, open_clip_loss.SigLipLoss):
    """open_clip's SigLipLoss that manages false negatives. With nothing to manage it is SigLipLoss.

    A positive (own, known, connected) gets label +1 (a connection of weight w: w times that loss and 1-w times that of
    label -1), a dropped pair has no loss, α mixes the target y (1, w or 0) into (1-α)·y + α/B over the rank's own
    columns, as S-ITC does. Arguments beyond SigLipLoss' own: see MafaClipLoss.
    Where there is something to manage, texts of other ranks come by one all_gather, whatever dist_impl says.
    """

    get_logits: Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]

    def _managed(
        self, step: Step, image_BD: Tensor, text_BD: Tensor, logit_scale: Tensor, logit_bias: Tensor | None
    ) -> Tensor:
        positive_BW, dropped_BW = step.by_pair()
        target_BW = smooth_own_columns(positive_BW, self.alpha, step.first_col, step.B)
        loss = image_BD.new_zeros((), dtype=torch.float32)
        columns = zip(
            self._texts_of_all_ranks(text_BD),
            torch.split(target_BW, step.B, dim=1),
            torch.split(dropped_BW, step.B, dim=1),
            strict=True,
        )
        for texts_BD, target_BB, dropped_BB in columns:  # rank by rank, so that no (B, W) logits are held
            logits_BB = self.get_logits(image_BD, texts_BD, logit_scale, logit_bias).float()
            loss_BB = F.binary_cross_entropy_with_logits(logits_BB, target_BB, reduction="none")
            loss = loss + loss_BB.masked_fill(dropped_BB, 0.0).sum() / step.B
        return loss

    def _texts_of_all_ranks(self, text_BD: Tensor) -> tuple[Tensor, ...]:
        if self.world_size == 1:
            return (text_BD,)
        from torch.distributed.nn.functional import all_gather

        return tuple(all_gather(text_BD))  # type: ignore[no-untyped-call]  # of torch; with gradient
