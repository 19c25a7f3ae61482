"""Where a run writes: one process at a time, over nothing of somebody else, an evaluation apart from its training."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from lavis_mafa.common.folders import held, job_of, refuse_foreign

if TYPE_CHECKING:
    from lavis.common.config import Config

EVALUATION = "evaluation"  # the folder of an evaluation, below that of the training
CHECKPOINTS = "checkpoint_e*.pth"
WEIGHTS = "model.safetensors"  # what a training ends with
# What a job writes, and so replaces, in run.output_dir
RUN = (
    *("results.json", "steps.jsonl", "epochs.jsonl", "curves.png", "gallery", WEIGHTS, "checkpoint_*.pth"),
    *("plan_*.npz", "connections", "embeddings", "tensorboard", "result", "predictions_*", "bad_images_rank*.txt"),
)
MINE = (*("summary.json", "connections.parquet", "suspects.csv", "mining.png", "gallery", "review", "*_connected.*"),)
WRITES = {"train": RUN, "evaluate": RUN, "mine": MINE}


@contextmanager
def output_folder(run: DictConfig, job: str) -> Iterator[None]:
    """While the block runs, run.output_dir is this job's alone; LAVIS' own runner has its folder elsewhere.

    Raises:
        ValueError: no folder can be made there, another process holds it, or it has files of somebody else where the
            job writes.
    """
    folder = Path(run.output_dir)
    if _is_lavis_runner(run.get("runner")) or os.environ.get("RANK", "0") != "0":
        yield
        return
    with held(folder, job, "run.output_dir", _writes(folder, job)):
        yield


def refuse_output(run: DictConfig, job: str) -> None:
    """ValueError where `output_folder` would raise one over what lies in run.output_dir; nothing is made there."""
    folder = Path(run.output_dir).resolve()
    if not _is_lavis_runner(run.get("runner")):
        refuse_foreign(folder, job, "run.output_dir", _writes(folder, job))


def _writes(folder: Path, job: str) -> tuple[str, ...]:
    # a training of an earlier version has no marker: its checkpoints say whose it is, and are checked at a resume
    return () if job == "train" and any(folder.glob(CHECKPOINTS)) else WRITES[job]


def _is_lavis_runner(name: str | None) -> bool:
    """Whether the run is LAVIS' own runner's; a job without a runner needs no LAVIS."""
    if name is None:
        return False
    import lavis_mafa.compat  # noqa: F401  before the first `lavis` import

    from lavis.common.registry import registry

    from lavis_mafa.config.keys import is_ours

    runner = registry.get_runner_class(name)
    return runner is not None and not is_ours(runner)


def set_apart(cfg: Config, options: Sequence[str]) -> None:
    """Where run.output_dir is a training's, its model is evaluated, unless an option names another, into a folder of
    its own below.

    Raises:
        ValueError: the training has not ended, and no option names a checkpoint.
    """
    run, model, folder = cfg.run_cfg, cfg.model_cfg, Path(cfg.run_cfg.output_dir)
    if job_of(folder) != "train" and not any(folder.glob(CHECKPOINTS)):
        return
    run.output_dir = str(folder / EVALUATION)
    if not any(option.startswith(("model.pretrained=", "model.finetuned=")) for option in options):
        if not (folder / WEIGHTS).is_file():
            raise ValueError(
                f"run.output_dir: the training in {folder} has not ended, so there is no {WEIGHTS}; name the "
                "checkpoint to evaluate by model.pretrained=FILE, or train to the end"
            )
        model.update(load_finetuned=False, load_pretrained=True, pretrained=str(folder / WEIGHTS))
    logging.warning("run.output_dir %s is a training's: its evaluation is written to %s", folder, run.output_dir)
