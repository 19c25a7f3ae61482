"""What a mining job is made of, for those that report on it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from lavis.common.config import Config

from lavis_mafa.core.settings import MafaSettings
from lavis_mafa.mining.corpus import Corpus
from lavis_mafa.mining.engine import Mined
from lavis_mafa.mining.search import Vectors
from lavis_mafa.mining_job.judgments import Judged
from lavis_mafa.mining_job.source import Source


@dataclass
class Job:
    """A mined data set and where its results go. embeddings: of images and captions, where the report needs them."""

    folder: Path
    cfg: Config
    source: Source
    corpus: Corpus
    mined: Mined
    rule: MafaSettings
    judged: Judged | None = None
    judge_report: Mapping[str, int] = field(default_factory=dict)  # what the judge met in its inputs
    embeddings: tuple[Vectors, Vectors] | None = None
