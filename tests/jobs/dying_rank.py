"""Training with a rank that ends in its second step: `python -m tests.jobs.dying_rank RANK HOW ARGUMENTS…`.

HOW: `raises` or `killed`.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

import lavis_mafa


def main() -> None:
    rank, how = sys.argv[1:3]
    del sys.argv[1:3]
    lavis_mafa.register()
    from lavis_mafa import train
    from lavis_mafa.tasks import pretrain as tasks

    forward = tasks.MafaPretrainTask._forward

    def dying(task: Any, model: Any, samples: Any, cuda_enabled: bool) -> Any:
        if os.environ["RANK"] == rank and samples["iters"] == 1:
            if how == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            raise RuntimeError("this GPU is gone")
        return forward(task, model, samples, cuda_enabled)

    tasks.MafaPretrainTask._forward = dying
    train.main()


if __name__ == "__main__":
    main()
