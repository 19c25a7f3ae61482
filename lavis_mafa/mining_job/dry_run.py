"""`mine --dry-run`: what a job would read and ask, and what it lacks; nothing is embedded, judged, fetched or written.

Tested in tests/jobs/test_mine_dry_run.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from lavis_mafa.common.stdout import show
from lavis_mafa.config.output import refuse_output
from lavis_mafa.mining_job.inputs import Inputs, read_inputs
from lavis_mafa.mining_job.source import JobConfig, lost_images
from lavis_mafa.scorers.registry import judge_files

FIRST = 4  # images that are opened


def dry_run(cfg: JobConfig) -> list[str]:
    """Print the job; returns what is missing on this machine, empty where it can start (exit code 0).

    Raises:
        ValueError: whatever the job itself would refuse before its first embedding.
    """
    missing = list(dict.fromkeys([*_judge_lacks(cfg), *_network_lacks(cfg)]))
    refuse_output(cfg.run_cfg, "mine")
    if not any(line.startswith("datasets.") for line in missing):
        inputs = read_inputs(cfg)
        show("\n".join(_described(cfg, inputs)))
        missing += _unreadable(inputs)
    lines = ["missing on this machine:", *(f"  {line}" for line in missing)] if missing else ["nothing is missing"]
    show("\n".join(lines))
    return missing


def _judge_lacks(cfg: JobConfig) -> Iterator[str]:
    for key, path in judge_files(cfg.run_cfg.con_d) if cfg.run_cfg.get("con_d") else ():
        if not path.startswith("package:") and not Path(path).expanduser().exists():
            yield f"run.con_d.{key}: nothing at {path}"


def _network_lacks(cfg: JobConfig) -> list[str]:
    """Of `model` and of data that LAVIS' builders read; a config without `model` needs neither."""
    if cfg.model_cfg is None:
        return []
    from lavis_mafa.config.first_reads import to_fetch
    from lavis_mafa.config.values import missing_files

    return [*missing_files(cfg.config), *to_fetch(cfg.config)]


def _described(cfg: JobConfig, inputs: Inputs) -> Iterator[str]:
    run, corpus, search = cfg.run_cfg, inputs.corpus, inputs.search
    yield f"{inputs.source.name}, split {run.split}: {corpus.n_images:,} images, {corpus.n_texts:,} distinct captions"
    judge = run.con_d.arch if run.get("con_d") else "the model's own matching head"
    yield f"judge: {judge}; candidates by {' and '.join(run.retrievers)}"
    nearest = (corpus.n_images + corpus.n_texts) * search.range_max * len(run.retrievers)
    pairs = min(nearest, corpus.n_images * corpus.n_texts - len(corpus.own_record_P))
    yield f"pairs to judge: at most {pairs:,} candidates and {len(corpus.own_record_P):,} annotated"
    if inputs.labels is not None:
        yield f"labelled by people: {len(inputs.labels.key_L):,} pairs"
    yield f"written to {Path(run.output_dir).resolve()}"


def _unreadable(inputs: Inputs) -> Iterator[str]:
    data = inputs.source.data
    if lost := lost_images(inputs.source):
        yield lost
    for record in range(min(FIRST, data.table.n_records)):
        try:
            data.open_image(record)
        except (OSError, ValueError) as error:
            yield f"datasets.{inputs.source.name}, image {record}: {error}"
            return
