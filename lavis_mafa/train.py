"""`python -m lavis_mafa.train --cfg-path X.yaml --options a.b=c`: on CPU or GPU, alone or under torchrun."""

from __future__ import annotations

import logging
import os
import sys
from typing import TYPE_CHECKING

from lavis_mafa import register
from lavis_mafa.common.errors import one_line_errors
from lavis_mafa.common.stdout import log_messages, print_anything
from lavis_mafa.common.stopping import stops_on_signals
from lavis_mafa.common.threads import take_threads, wait_passively

if TYPE_CHECKING:  # they know LAVIS, which register() loads
    from lavis.common.config import Config

    from lavis_mafa.runners.run import Results


def run(description: str, evaluate: bool) -> Results:
    """Build what the config names from LAVIS' registry, and let the runner go."""
    register()
    from lavis.tasks import setup_task  # noqa: F401  LAVIS' own tasks register on import
    from torch.distributed.elastic.multiprocessing.errors import record

    from lavis_mafa.common.ranks import first_failure_first
    from lavis_mafa.config.arguments import parse_arguments
    from lavis_mafa.config.dry_run import dry_run
    from lavis_mafa.config.load import init_distributed, load_config
    from lavis_mafa.config.output import output_folder, set_apart
    from lavis_mafa.config.values import refuse_missing

    arguments = parse_arguments(description, dry_run=not evaluate)
    cfg = load_config(arguments)
    run_cfg = cfg.run_cfg
    run_cfg.evaluate = evaluate or run_cfg.evaluate
    if not evaluate and arguments.dry_run:
        sys.exit(int(bool(dry_run(cfg))))
    rank = int(os.environ.get("RANK", 0))
    log_messages(logging.INFO if rank == 0 else logging.WARNING)
    if run_cfg.evaluate:
        set_apart(cfg, arguments.options)
    refuse_missing(cfg.config)
    take_threads()
    with output_folder(run_cfg, "evaluate" if run_cfg.evaluate else "train"):
        init_distributed(run_cfg)
        with first_failure_first():
            return record(_run)(cfg)  # torchrun's last words are the exception of the rank that failed first


def _run(cfg: Config) -> Results:
    from lavis.common.registry import registry

    from lavis_mafa.common.loading import worker_errors
    from lavis_mafa.config.values import check_data

    run_cfg = cfg.run_cfg
    _seed(int(run_cfg.seed))
    task = registry.get_task_class(run_cfg.task).setup_task(cfg=cfg)
    datasets = task.build_datasets(cfg)
    if run_cfg.runner == "grit_runner":
        check_data(cfg.config, datasets)
    model = task.build_model(cfg)
    runner = registry.get_runner_class(run_cfg.runner)(cfg=cfg, task=task, model=model, datasets=datasets, job_id="")
    with worker_errors():
        return runner.train()


def _seed(seed: int) -> None:
    """Initial weights are f(seed), the same on every rank; what follows is seeded step by step."""
    import random

    import numpy as np
    import torch

    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def main(description: str = "Train a model, then evaluate it", evaluate: bool = False) -> None:
    print_anything()
    wait_passively()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    with one_line_errors(), stops_on_signals():
        run(description, evaluate)


if __name__ == "__main__":
    main()
