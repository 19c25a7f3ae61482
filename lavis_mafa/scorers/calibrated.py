"""A judge whose scores a calibration turns into P(match): the key `calibration` of any judge's section.

`python -m lavis_mafa.calibrate` writes the file. Tested in tests/scorers/test_calibrated.py.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from lavis_mafa.common.artifacts import reading
from lavis_mafa.common.formats import check_format
from lavis_mafa.common.hashing import digest
from lavis_mafa.core.batch import Batch
from lavis_mafa.core.calibration import Calibration
from lavis_mafa.core.scorer import PairScorer, View, looks_at_images, reads_tokens, view_of

REMEDY = "write it with `python -m lavis_mafa.calibrate`, on the same config"


@dataclass
class Calibrated:
    """PairScorer: `inner`, calibrated; batches hold image_id."""

    inner: PairScorer
    calibration: Calibration

    @property
    def fingerprint(self) -> str:
        return f"{self.inner.fingerprint}:calibrated:{digest(json.dumps(self.calibration.as_json()))}"

    @property
    def view(self) -> View | None:
        return view_of(self.inner)

    @property
    def shares_tower(self) -> bool:
        return reads_tokens(self.inner)

    @shares_tower.setter
    def shares_tower(self, shares: bool) -> None:
        self.inner.shares_tower = shares  # type: ignore[attr-defined]  # a TowerScorer's

    @property
    def reads_captions_alone(self) -> bool:
        return not looks_at_images(self.inner)

    def score(self, batch: Batch, image_K: Tensor, text_K: Tensor) -> Tensor:
        """(K,) calibrated P(match)."""
        score_K = self.inner.score(batch, image_K, text_K)
        image_id_K = batch["image_id"].cpu()[image_K.cpu()]
        return torch.from_numpy(self.calibration(score_K.cpu().numpy(), image_id_K.numpy())).to(score_K)


def weights_of(scorer: PairScorer) -> str | None:
    """What a calibration belongs to: the scorer's network, whatever data it judges."""
    found: str | None = getattr(scorer, "weights_fingerprint", scorer.fingerprint)
    return found


@runtime_checkable
class Fitted(PairScorer, Protocol):
    """A judge that knows itself what the file is to it: one made of others."""

    def fitted(self, found: Mapping[str, object]) -> PairScorer: ...


def calibrated(scorer: PairScorer, path: str, where: str) -> PairScorer:
    """A scorer with what a calibration file says of it.

    Args:
        scorer: the judge, uncalibrated.
        path: a file of `lavis_mafa.calibrate`.
        where: the key that names it, for errors.

    Raises:
        ValueError: no such file, no calibration, or one that was fitted for another network.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise ValueError(f"{where}.calibration: no file at {path}; {REMEDY}, or drop the key")
    with reading(file, "calibration", REMEDY):
        found = json.loads(file.read_text(encoding="utf-8"))
    check_format(file, "calibration", found, REMEDY)
    if found["judge"] != weights_of(scorer):
        raise ValueError(f"{where}.calibration: {path} was fitted for another network; {REMEDY}")
    with reading(file, "calibration", REMEDY):
        if isinstance(scorer, Fitted):
            return scorer.fitted(found)
        return Calibrated(scorer, Calibration.from_json(found["curves"]))
