"""Whether a judge can be trusted, from pairs that need no label: annotated ones, and the same images with the captions
of others. Tested in tests/evaluation/test_judge_check.py.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Subset

from lavis_mafa.core.batch import Batch
from lavis_mafa.core.metrics import roc_auc
from lavis_mafa.core.scorer import SeeingScorer
from lavis_mafa.core.settings import MafaSettings
from lavis_mafa.data.dataset import RecordImages, RetrievalDataset
from lavis_mafa.data.records import RecordTable

if TYPE_CHECKING:  # mining by a judge of captions does without LAVIS
    from lavis_mafa.models.protocols import Matcher

SAMPLE = 200  # images; the standard error of the AUC is then below 0.03
BLOCK = 32  # images of one pass
LEAST_AUC = 0.75
MOST_DOUBTED = 0.5  # share of annotated pairs below `low`
UNCALIBRATED = (
    "uncalibrated: the scores are cosines, not probabilities, so no bound on them is a probability; name a .json file "
    "in run.con_d.calibration and run `lavis-mafa calibrate`"
)

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]
Score = Callable[[Ints, Ints], Floats]  # records (K,), caption rows (K,) → P(match) (K,)


@dataclass(frozen=True)
class JudgeCheck:
    """P(match) of annotated pairs: how many, median, shares above `high` and below `low`; and the AUC of these against
    shuffled pairs, None where no two images can be shuffled."""

    annotated_pairs: int
    median: float
    above_high: float
    below_low: float
    auc_against_shuffled: float | None
    low: float
    high: float
    cosines: bool = False  # its scores are cosines, no probabilities

    @classmethod
    def of(cls, own_p_P: Floats, auc: float | None, rule: MafaSettings, cosines: bool = False) -> JudgeCheck:
        shares = float(np.median(own_p_P)), float((own_p_P > rule.high).mean()), float((own_p_P < rule.low).mean())
        return cls(len(own_p_P), *shares, auc, rule.low, rule.high, cosines)

    def as_dict(self) -> dict[str, object]:
        return {**asdict(self), "advice": self.advice}

    @property
    def advice(self) -> str:
        """What to do where the judge is plainly unsure or gives no probabilities, else nothing."""
        return "; ".join(filter(None, (UNCALIBRATED if self.cosines else "", self._doubt)))

    @property
    def _doubt(self) -> str:
        auc = self.auc_against_shuffled
        if auc is not None and auc < LEAST_AUC:
            return (
                "it hardly separates annotated pairs from shuffled ones (an AUC of 0.5 is chance): do not use its "
                "verdicts. Train it longer or on more pairs (run_scripts/mafa/train_con_d.sh), name another judge in "
                "run.con_d, or look whether captions belong to their images (`lavis-mafa check`)"
            )
        if self.below_low > MOST_DOUBTED:
            return (
                f"it doubts {self.below_low:.0%} of the annotated pairs, so the bounds low {self.low:g} and high "
                f"{self.high:g} do not fit its scale and few connections will be found: set them by its scores "
                f"(half of the annotated pairs are above {self.median:.2f}), or name another judge in run.con_d"
            )
        return ""

    def __str__(self) -> str:
        auc = self.auc_against_shuffled
        above = f"{self.above_high:.0%} are above {self.high:g}, " if self.high < 1 else ""
        return (
            f"{'the score' if self.cosines else 'P(match)'} of {self.annotated_pairs:,} annotated pairs has a median "
            f"of {self.median:.2f}, {above}{self.below_low:.0%} {'' if above else 'are '}below {self.low:g}; "
            f"AUC against shuffled pairs {'-' if auc is None else f'{auc:.2f}'}"
        )


def report_judge(
    score: Score, table: RecordTable, rule: MafaSettings, who: str = "the judge", cosines: bool = False
) -> JudgeCheck:
    """Ask `who` judges about a sample of pairs and log the answer, with what to do where it is unsure."""
    found = check_judge(score, table, rule, cosines)
    logging.info("%s: %s", who, found)
    if found.advice:
        logging.warning("WARNING: %s is doubtful: %s", who, found.advice)
    return found


def check_judge(score: Score, table: RecordTable, rule: MafaSettings, cosines: bool = False) -> JudgeCheck:
    (own_N, row_N), (other_M, row_M) = sampled_pairs(table, SAMPLE)
    p = score(np.concatenate([own_N, other_M]), np.concatenate([row_N, row_M]))
    label = np.arange(len(p)) < len(own_N)
    return JudgeCheck.of(p[: len(own_N)], roc_auc(label, p) if len(other_M) else None, rule, cosines)


def sampled_pairs(table: RecordTable, size: int) -> tuple[tuple[Ints, Ints], tuple[Ints, Ints]]:
    """(records, caption rows) of up to `size` annotated pairs, and of the same images with a caption of another one.

    No generator of the run is drawn from; a caption that its image has too is no shuffled pair.
    """
    record_N = np.sort(np.random.default_rng(0).permutation(table.n_records)[:size]).astype(np.int64)
    row_N = np.asarray(table.offsets[record_N], np.int64)
    shuffled_N = np.roll(row_N, 1)
    own = ({int(table.text_id[row]) for row in table.caption_rows(record)} for record in record_N.tolist())
    kept_N = [int(table.text_id[row]) not in texts for row, texts in zip(shuffled_N.tolist(), own, strict=True)]
    return (record_N, row_N), (record_N[kept_N], shuffled_N[kept_N])


def scores_of(scorer: SeeingScorer, data: RecordImages, device: torch.device) -> Score:
    """A judge of training, asked by its own view of the records."""

    def score(record_K: Ints, row_K: Ints) -> Floats:
        p_K = np.empty(len(record_K), np.float32)
        images = np.unique(record_K)
        for start in range(0, len(images), BLOCK):
            block = images[start : start + BLOCK]
            at_k = np.flatnonzero(np.isin(record_K, block))
            rows, text_k = np.unique(row_K[at_k], return_inverse=True)
            batch = _batch(data, block, rows)
            images_k = [scorer.view(data.open_image(record)) for record in block.tolist()]
            batch["judge_image"] = torch.stack(images_k).to(device)
            image_k = torch.from_numpy(np.searchsorted(block, record_K[at_k])).to(device)
            p_K[at_k] = scorer.score(batch, image_k, torch.from_numpy(text_k).to(device)).cpu().numpy()
        return p_K

    return score


def scores_of_head(
    model: Matcher, dataset: RetrievalDataset, batch_size: int, workers: int, device: torch.device
) -> Score:
    """The model's own matching head, as it would judge as a Con-D. All ranks call it."""
    from lavis_mafa.evaluation.retrieval import encode_gallery, match_scores

    def score(record_K: Ints, row_K: Ints) -> Floats:
        records, image_K = np.unique(record_K, return_inverse=True)
        rows, text_K = np.unique(row_K, return_inverse=True)
        texts = [dataset.text_processor(dataset.table.caption(row)) for row in rows.tolist()]
        gallery = encode_gallery(model, Subset(dataset, records.tolist()), batch_size, workers, device, texts)
        logits_K2 = match_scores(model, gallery, image_K, text_K, device)
        p_K2: Floats = torch.from_numpy(logits_K2).softmax(dim=1).numpy()
        return p_K2[:, 1]

    return score


def _batch(data: RecordImages, records: Ints, rows: Ints) -> Batch:
    table = data.table
    return {
        "index": torch.from_numpy(records),
        "image_id": torch.from_numpy(table.image_id[records]),
        "caption": [table.caption(row) for row in rows.tolist()],
        "text_id": torch.from_numpy(table.text_id[rows]),
        "text_row": torch.from_numpy(rows),
    }
