"""ITC targets and losses, ITM labels and loss. Tested in tests/core/test_losses.py.

Rows are the rank's B queries, columns the W gathered keys; the rank's own keys are columns first_col .. first_col+B-1.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from lavis_mafa.core.batch import sent
from lavis_mafa.core.pairs import Candidates, SettledPairs


def connection_masks(settled: SettledPairs, B: int, W: int, first_col: int = 0) -> tuple[Tensor, Tensor]:
    """Connections as matrices, each only in its anchor's row and direction (MAFA).

    Args:
        settled: pairs with their verdicts (pairs.settle).
        B: the rank's own batch.
        W: the gathered width over ranks.
        first_col: the first of the rank's own columns; 0 in one process.

    Returns:
        (i2t_BW, t2i_BW) bool masks, or float weights with 0 for no connection where the pairs carry weights.
    """
    weight_K = settled.connections if settled.weight_K is None else settled.weight_K
    i2t_BW = weight_K.new_zeros(B, W)
    t2i_BW = torch.zeros_like(i2t_BW)
    from_text_K = settled.connections & settled.from_text_K
    from_image_K = settled.connections & ~settled.from_text_K
    i2t_BW[settled.image_K[from_image_K], settled.text_K[from_image_K] + first_col] = weight_K[from_image_K]
    t2i_BW[settled.text_K[from_text_K], settled.image_K[from_text_K] + first_col] = weight_K[from_text_K]
    return i2t_BW, t2i_BW


def matched_masks(candidates: Candidates, matches_C: Tensor, B: int, W: int, first_col: int = 0) -> Tensor:
    """The candidates that were judged to match, each in its anchor's row.

    Args:
        candidates: pairs that were judged.
        matches_C: (C,) bool, those judged to match.
        B: the rank's own batch.
        W: the gathered width over ranks.
        first_col: the first of the rank's own columns; 0 in one process.

    Returns:
        (2, B, W) bool, image→text and text→image.
    """
    pairs = SettledPairs(candidates.image_C, candidates.text_C, matches_C.long(), candidates.from_text_C)
    return torch.stack(connection_masks(pairs, B, W, first_col))


def itc_targets(own_col_B: Tensor, known_BW: Tensor, connected_BW: Tensor) -> Tensor:
    """Target rows: own pair, known positives and connections share them.

    Args:
        own_col_B: (B,) the column of each row's own pair.
        known_BW: (B, W) bool, known positives.
        connected_BW: (B, W) connections: a mask, or weights in [0, 1]. Own and known positives weigh 1.

    Returns:
        (B, W) float32; each row sums to 1.

    Example:
        >>> known = torch.eye(2, 3, dtype=torch.bool)
        >>> connected = torch.tensor([[False, True, False], [False, False, False]])
        >>> itc_targets(torch.arange(2), known, connected).tolist()
        [[0.5, 0.5, 0.0], [0.0, 1.0, 0.0]]
    """
    certain_BW = known_BW.scatter(1, own_col_B[:, None], True)
    positive_BW = connected_BW.float().masked_fill(certain_BW, 1.0)
    return positive_BW / positive_BW.sum(dim=1, keepdim=True)


def smooth_own_columns(target_BW: Tensor, alpha: float, first_col: int, B: int) -> Tensor:
    """S-ITC: (1-α)·y + α/B over the rank's own columns, which GRIT grouped (MAFA, smoothed ITC).

    Args:
        target_BW: (B, W) rows that sum to 1.
        alpha: α in [0, 1].
        first_col: the first of the rank's own B columns.

    Example:
        >>> smooth_own_columns(torch.tensor([[1.0, 0.0, 0.0]]), 0.5, first_col=0, B=2).tolist()
        [[0.75, 0.25, 0.0]]
    """
    smoothed_BW = target_BW * (1 - alpha)
    smoothed_BW[:, first_col : first_col + B] += alpha / B
    return smoothed_BW


def label_smooth(target_BW: Tensor, eps: float) -> Tensor:
    """Label smoothing over all W columns: (1-ε)·y + ε/W (Szegedy et al., arXiv 1512.00567, section 7)."""
    return target_BW * (1 - eps) + eps / target_BW.shape[1]


def managed_itc_targets(
    settled: SettledPairs, known_BW: Tensor, first_col: int, alpha: float, label_smoothing: float
) -> tuple[Tensor, Tensor]:
    """The ITC targets of one step.

    Args:
        settled: pairs with their verdicts (pairs.settle).
        known_BW: (B, W) bool, known positives (pairs.known_positives), or own pairs alone (pairs.own_positives).
        first_col: the first of the rank's own columns; 0 in one process.
        alpha: S-ITC of this epoch (MafaSettings.smoothing_at); at 0 the plain label smoothing stands in.
        label_smoothing: ε of that.

    Returns:
        (i2t_BW, t2i_BW) float32 rows that sum to 1: what an image's row of captions, and a caption's row of images,
        is to learn.
    """
    B, W = known_BW.shape
    own_col_B = torch.arange(first_col, first_col + B, device=known_BW.device)
    i2t_BW, t2i_BW = (
        itc_targets(own_col_B, known_BW, sent(connected_BW, known_BW.device))
        for connected_BW in connection_masks(settled, B, W, first_col)
    )
    if alpha > 0:
        return smooth_own_columns(i2t_BW, alpha, first_col, B), smooth_own_columns(t2i_BW, alpha, first_col, B)
    return label_smooth(i2t_BW, label_smoothing), label_smooth(t2i_BW, label_smoothing)


def leave_out(logits_RW: Tensor, target_RW: Tensor, dropped_RW: Tensor) -> tuple[Tensor, Tensor]:
    """Logits and targets without the dropped pairs, whose share of the target goes to the rest of the row.

    Args:
        logits_RW: (R, W) similarities over the temperature.
        target_RW: (R, W) rows that sum to 1.
        dropped_RW: (R, W) bool, never a row's own pair.

    Returns:
        (logits_RW, target_RW), both float32.
    """
    kept_RW = target_RW.masked_fill(dropped_RW, 0.0)
    # not -inf: a target of 0 times the logarithm of 0 would be NaN
    logits_RW = logits_RW.float().masked_fill(dropped_RW, torch.finfo(torch.float32).min)
    return logits_RW, kept_RW / kept_RW.sum(dim=1, keepdim=True)


def soft_cross_entropy(logits_BW: Tensor, target_BW: Tensor) -> Tensor:
    """Mean over rows of -Σ_w target · log_softmax(logits), in float32 whatever the logits are in."""
    return -(target_BW.float() * logits_BW.float().log_softmax(dim=1)).sum(dim=1).mean()


def itc_loss(logits_i2t_BW: Tensor, logits_t2i_BW: Tensor, target_i2t_BW: Tensor, target_t2i_BW: Tensor) -> Tensor:
    """Image-text contrastive loss, the mean of both directions.

    Args:
        logits_i2t_BW, logits_t2i_BW: similarities / temperature, images by captions and captions by images.
        target_i2t_BW, target_t2i_BW: rows that sum to 1 (managed_itc_targets).

    Returns:
        A scalar.

    Example:
        >>> logits, target = torch.zeros(2, 2), torch.eye(2)
        >>> round(itc_loss(logits, logits, target, target).item(), 4)  # ln 2
        0.6931
    """
    return (soft_cross_entropy(logits_i2t_BW, target_i2t_BW) + soft_cross_entropy(logits_t2i_BW, target_t2i_BW)) / 2


def distilled(target_BW: Tensor, teacher_BW: Tensor, alpha: float) -> Tensor:
    """Momentum distillation: (1-α)·y + α·softmax(the momentum model's logits) (ALBEF, arXiv 2107.07651, eq. 6).

    Args:
        target_BW: (B, W) rows y that sum to 1.
        teacher_BW: (B, W) the momentum model's similarities over its temperature.
        alpha: α in [0, 1].
    """
    return target_BW * (1 - alpha) + teacher_BW.detach().float().softmax(dim=1) * alpha


def consistency_targets(logits_i2t_BW: Tensor, logits_t2i_BW: Tensor) -> tuple[Tensor, Tensor]:
    """What each direction's row says, detached, for the other to learn (GRIT-VLP, arXiv 2208.04060).

    Cross-entropy with them is the ITC consistency loss as in its code; the paper's KL divergence differs by the entropy
    of the detached row, so has the same gradient.
    """
    i2t_BW, t2i_BW = (logits_BW.detach().float().softmax(dim=1) for logits_BW in (logits_i2t_BW, logits_t2i_BW))
    return t2i_BW, i2t_BW


def label_mass(target_2BB: Tensor, marked_BB: Tensor) -> Tensor:
    """(2, B) share of each row's label that lies on marked pairs, image→text and text→image (MAFA, Tables 2 and 6).

    target_2BB: targets of the rank's own columns, a row an anchor. marked_BB[i, t]: image i with text t.
    """
    return (target_2BB * torch.stack([marked_BB, marked_BB.T])).sum(dim=2)


def token_loss(logits_MV: Tensor, label_M: Tensor, teacher_MV: Tensor | None = None, alpha: float = 0.0) -> Tensor:
    """Mean cross-entropy of masked tokens, 0 for none; with a teacher distilled (ALBEF, arXiv 2107.07651, eq. 7).

    Args:
        logits_MV: (M, V) of M masked tokens over V words.
        label_M: (M,) long, the words that were masked.
        teacher_MV: (M, V) logits of the momentum model; None: the labels alone.
        alpha: its share of the target.
    """
    loss = F.cross_entropy(logits_MV.float(), label_M, reduction="sum")
    if teacher_MV is not None:
        taught_MV = teacher_MV.detach().float().softmax(dim=1) * logits_MV.float().log_softmax(dim=1)
        loss = (1 - alpha) * loss - alpha * taught_MV.sum()
    return loss / max(len(label_M), 1)


def itm_labels(B: int, settled: SettledPairs) -> Tensor:
    """What the matching head is to say of the B own pairs, and then of the K settled ones.

    Returns:
        (B + K,) long, 1 for a match; where the pairs carry P(match), (B + K, 2) float: of no match, and of a match
        (a distilled Con-D).
    """
    if settled.p_K is None:
        return torch.cat([settled.label_K.new_ones(B), settled.label_K])
    p = torch.cat([settled.p_K.new_ones(B), settled.p_K])
    return torch.stack([1 - p, p], dim=1)


def itm_loss(logits_K2: Tensor, labels: Tensor) -> Tensor:
    """Image-text matching: mean cross-entropy in float32; 0 for no pair, where a plain mean would be NaN.

    Args:
        logits_K2: (K, 2) of the matching head: no match, match.
        labels: of itm_labels, (K,) classes or (K, 2) probabilities.

    Example:
        >>> round(itm_loss(torch.zeros(3, 2), torch.tensor([1, 0, 0])).item(), 4)  # ln 2
        0.6931
    """
    return F.cross_entropy(logits_K2.float(), labels, reduction="sum") / max(len(labels), 1)


def itm_accuracy(logits_K2: Tensor, labels: Tensor) -> Tensor:
    """Balanced accuracy of the matching head: the mean of its accuracy on matches and on mismatches.

    A head that always says no is right on two pairs of three; balanced, it stands at 0.5, as chance does.

    Args:
        logits_K2: (K, 2) of the matching head: no match, match.
        labels: of itm_labels, (K,) classes or (K, 2) probabilities.

    Returns:
        () float32 in [0, 1]; of one kind alone where the other is absent. Nothing waits for the device.

    Example:
        >>> itm_accuracy(torch.tensor([[0.0, 1.0], [1.0, 0.0], [0.0, 1.0]]), torch.tensor([1, 0, 0])).item()
        0.75
    """
    match_K = (labels if labels.ndim == 1 else labels[:, 1]) > 0.5
    right_K = (logits_K2[:, 1] > logits_K2[:, 0]) == match_K
    kinds_2K = torch.stack([match_K, ~match_K])
    number_2 = kinds_2K.sum(1)
    return ((kinds_2K & right_K).sum(1) / number_2.clamp(min=1)).sum() / (number_2 > 0).sum().clamp(min=1)
