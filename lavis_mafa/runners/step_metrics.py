"""What a step found: its losses, its pairs, and, where the truth is known, how right they were."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
import torch
from torch import Tensor

from lavis_mafa.core.batch import Batch
from lavis_mafa.core.losses import label_mass
from lavis_mafa.core.pairs import known_positives, own_positives
from lavis_mafa.data.dataset import TruthFunction
from lavis_mafa.models.base import MafaOutput
from lavis_mafa.tasks.loop import StepOutput

SUMS = (
    "true_connections",
    "connections",
    "true_scored",
    "put_to_con_d",
    "itm_negatives",
    "itm_false_negatives",
    "false_negatives",
)


def loss_tensor(output: StepOutput) -> Tensor:
    """The loss of a step, its parts and what is logged beside them, side by side on the device."""
    parts = [*output.losses.values(), *output.logged.values()]
    return torch.stack([output.loss.detach(), *(value.detach() for value in parts)])


def loss_row(output: StepOutput, values: Tensor) -> dict[str, float]:
    """The losses of a step, and what is logged beside them, by name; values: its loss_tensor, on the CPU."""
    return dict(zip(["loss", *output.losses, *output.logged], values.tolist(), strict=True))


def step_row(samples: Batch, output: MafaOutput, truth: TruthFunction | None) -> dict[str, float | None]:
    """What a step found, beside its losses. Counts are of pairs (negatives under a distilled Con-D: as far as it says
    so); `true_*` only where a truth function is known."""
    row: dict[str, float | None] = {**output.mined.counts}
    if truth is not None:
        row.update(_against_truth(samples, output, truth))
    return row


def _against_truth(samples: Batch, output: MafaOutput, truth: TruthFunction) -> dict[str, float | None]:
    index, text_row = samples["index"].cpu().numpy(), samples["text_row"].cpu().numpy()
    batch = len(index)
    true_BB = truth(index[:, None], text_row[None, :])
    pairs, candidates, matches_C = output.pairs, output.mined.candidates, output.mined.matches_C
    true_K = true_BB[pairs.image_K.cpu().numpy(), pairs.text_K.cpu().numpy()]
    negative_K = (1 - (pairs.label_K if pairs.p_K is None else pairs.p_K).double()).cpu().numpy()  # the targets of ITM
    known_BB = _known(samples, batch)
    false_BB = torch.from_numpy(true_BB) & ~known_BB
    row: dict[str, float | None] = {
        "false_negatives": int(false_BB.sum()),
        "false_negative_rate": float(false_BB.sum() / max(batch * (batch - 1), 1)),
        "itm_negatives": float(negative_K.sum()),
        "itm_false_negatives": float(negative_K[true_K].sum()),
        "itm_false_negative_rate": _ratio(float(negative_K[true_K].sum()), float(negative_K.sum())),
        "true_connections": 0,
    }
    if output.targets is not None:
        row.update(_labels(output.targets.cpu(), false_BB, torch.from_numpy(~true_BB) & ~known_BB))
    if matches_C is not None:
        true_C = true_BB[candidates.image_C.cpu().numpy(), candidates.text_C.cpu().numpy()]
        found = int(true_C[matches_C.cpu().numpy()].sum())
        row.update(put_to_con_d=len(true_C), true_scored=int(true_C.sum()), true_connections=found)
    return row


def _known(samples: Batch, batch: int) -> Tensor:
    """(B, B) own pairs, and those that match by the annotation."""
    if "image_id" in samples:
        return known_positives(samples["image_id"].cpu(), samples["text_id"].cpu())
    return own_positives(batch, batch)


def _labels(target_2BB: Tensor, false_BB: Tensor, mismatched_BB: Tensor) -> dict[str, float | None]:
    """Share of an anchor's ITC label on its false negatives, where it has any, and on its mismatches; in the mean."""
    anchors = int(false_BB.any(1).sum() + false_BB.any(0).sum())
    return {
        "anchors_with_false_negatives": anchors,
        "label_on_false_negatives": _ratio(float(label_mass(target_2BB, false_BB).sum()), anchors),
        "label_on_mismatches": float(label_mass(target_2BB, mismatched_BB).mean()),
    }


def epoch_row(steps: pd.DataFrame, plan_stats: Mapping[str, float | str | None]) -> dict[str, float | str | None]:
    """One row of epochs.jsonl: mean losses, and precision and recall of the connections over the pairs put to Con-D."""
    means = [name for name in steps.columns if name.startswith("loss") or name == "itm_accuracy"]
    losses = {name: float(steps[name].mean()) for name in means}
    sums = {name: float(steps[name].sum()) for name in SUMS if name in steps}
    row: dict[str, float | str | None] = {
        "epoch": int(steps["epoch"].iloc[0]),
        **plan_stats,
        **losses,
        "steps": len(steps),
    }
    row.update({f"{name}_per_batch": value / len(steps) for name, value in sums.items()})
    if "true_scored" in sums:
        row["connection_precision"] = _ratio(sums["true_connections"], sums["connections"])
        row["connection_recall"] = _ratio(sums["true_connections"], sums["true_scored"])
    if "itm_negatives" in sums:
        row["itm_false_negative_rate"] = _ratio(sums["itm_false_negatives"], sums["itm_negatives"])
    if "label_on_mismatches" in steps:
        anchors = steps["anchors_with_false_negatives"]
        mass = (steps["label_on_false_negatives"].astype(float) * anchors).sum()
        row["label_on_false_negatives"] = _ratio(float(mass), int(anchors.sum()))
        row["label_on_mismatches"] = float(steps["label_on_mismatches"].mean())
    row["s_it"], row["data_share"] = float(steps["s_it"].median()), float(steps["data_share"].mean())
    return row


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if whole else None
