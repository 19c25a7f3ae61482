"""What a mining job is made of, for those that report on it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from lavis_mafa.core.settings import MafaSettings
from lavis_mafa.evaluation.judge_check import JudgeCheck
from lavis_mafa.mining.corpus import Corpus
from lavis_mafa.mining.engine import Floats, Mined
from lavis_mafa.mining.review import Labels
from lavis_mafa.mining.search import Vectors
from lavis_mafa.mining_job.judgments import Judged
from lavis_mafa.mining_job.source import JobConfig, Source


@dataclass(frozen=True)
class Reviewed:
    """The labels that people gave pairs, and the judge's P(match) of these."""

    labels: Labels
    p_L: Floats


@dataclass
class Job:
    """A mined data set and where its results go. embeddings: of images and captions, where the report needs them.

    check: how the judge scored a sample of annotated pairs, before it mined. judge: its fingerprint: a hash of weights,
    and one of preparation and libraries.
    """

    folder: Path
    cfg: JobConfig
    source: Source
    corpus: Corpus
    mined: Mined
    rule: MafaSettings
    check: JudgeCheck
    judge: str
    judged: Judged | None = None
    judge_report: Mapping[str, int] = field(default_factory=dict)  # what the judge met in its inputs
    embeddings: tuple[Vectors, Vectors] | None = None
    reviewed: Reviewed | None = None
