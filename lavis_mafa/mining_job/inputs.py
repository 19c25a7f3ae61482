"""What a mining job reads before its first embedding, and refuses there. `--dry-run` reads the same."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig

from lavis_mafa.core.neighbors import choose
from lavis_mafa.evaluation.judged_pairs import read_judged_pairs
from lavis_mafa.mining.candidates import SearchSettings
from lavis_mafa.mining.corpus import Corpus
from lavis_mafa.mining.review import Labels, has_labels, read_labels
from lavis_mafa.mining_job.judgments import Judged
from lavis_mafa.mining_job.source import JobConfig, Source, load_source


@dataclass(frozen=True)
class Inputs:
    """labels: those that people gave, in run.review or in the sample of an earlier start; None where there are none."""

    source: Source
    corpus: Corpus
    search: SearchSettings
    judged: Judged | None
    labels: Labels | None


def read_inputs(cfg: JobConfig) -> Inputs:
    """Raises ValueError: a setting, a file or a row that mining cannot use."""
    settings = cfg.run_cfg
    search = SearchSettings(**{name: settings[name] for name in SearchSettings.__dataclass_fields__})
    source = load_source(cfg)
    corpus = Corpus.of(source.data.table, settings.hide_siblings)
    choose(search.index, 1)  # a missing FAISS is reported before hours of embedding
    if settings.review and not Path(settings.review).is_file():
        raise ValueError(f"run.review: no file at {settings.review}")
    judged = None
    if settings.judged_pairs:
        judged = Judged.of(
            read_judged_pairs(settings.judged_pairs, source.data.table, settings.judged_threshold), corpus
        )
    return Inputs(source, corpus, search, judged, _labels(settings, corpus))


def _labels(settings: DictConfig, corpus: Corpus) -> Labels | None:
    path = Path(settings.review) if settings.review else Path(settings.output_dir) / "review.csv"
    return read_labels(path, corpus) if has_labels(path) else None
