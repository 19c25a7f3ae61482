"""Values of `run`, beyond their types: ranges of the schema (common/run_schema.py), names, folders, the device."""

from __future__ import annotations

from pathlib import Path
from string import Formatter

from omegaconf import DictConfig

from lavis_mafa.common.precision import precision
from lavis_mafa.config.checks import check_folders, check_search_space, refuse
from lavis_mafa.config.devices import check_device
from lavis_mafa.config.keys import registered


def normalise_prompt(run: DictConfig) -> None:
    """`{question}` in the prompt of mafa_vqa becomes `{}`, as LAVIS' T5 wants it.

    Raises:
        ValueError: a prompt that has no place for the question, more than one, or another placeholder.
    """
    if run.task != "mafa_vqa" or not run.get("prompt"):
        return
    try:
        places = [place for _, *place in Formatter().parse(run.prompt) if place[0] is not None]
    except ValueError:  # a lone brace
        places = []
    if places not in ([["", "", None]], [["question", "", None]]):
        refuse("run.prompt", run.prompt, "text with one {} or {question} where the question stands, or null for none")
    run.prompt = run.prompt.replace("{question}", "{}")


def check_run(run: DictConfig) -> None:
    for key in ("task", "runner"):
        registered(key, run.get(key), f"run.{key}")
    registered("lr_scheduler", run.get("lr_sched"), "run.lr_sched")
    check_search_space(run, run.batch_size_train if run.sampling == "grit" else 1)
    check_folders(run, "output_dir", "token_folder")
    check_device(run.device)
    precision(run)
    resume = run.get("resume_ckpt_path")
    if resume and resume != "auto" and not Path(resume).is_file():
        allowed = "null, auto (the newest checkpoint in run.output_dir), or an existing checkpoint"
        refuse("run.resume_ckpt_path", resume, allowed)
