"""Time of a training step alone and beside busy processes, by the way that its threads wait and their number.

    python projects/benchmarks/busy.py --json projects/benchmarks/busy.json

A step is the default job's: `mafa_blip2` on scenes, tower and all, forward, backward and AdamW. Every choice and load
has a process of its own, as OpenMP reads its policy once; busy processes run an empty loop of Python.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator

BUSY = "while True: pass"
POLICIES = {"spinning (OpenMP's own)": None, "passive": "passive"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--busy", type=int, nargs="+", default=[0, 1, 2], help="busy processes beside the step")
    parser.add_argument("--threads", type=int, nargs="+", help="default: 1, and all usable cores")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--json", help="the file of results")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        print(json.dumps(timed_steps(given.batch, given.steps)))
        return
    from machine import about

    from lavis_mafa.common.threads import usable_cpus
    from lavis_mafa.reports.table import write_json

    rows = []
    for threads in given.threads or sorted({1, usable_cpus()}):
        for name, policy in POLICIES.items():
            for busy in given.busy:
                with busy_processes(busy):
                    seconds = measured(policy, threads, given.batch, given.steps)
                rows.append({"wait": name, "threads": threads, "busy": busy, "step_s": seconds})
                print(rows[-1], flush=True)
    write_json(given.json, {**about(), "load_before": os.getloadavg()[0], "rows": rows})


@contextlib.contextmanager
def busy_processes(count: int) -> Iterator[None]:
    busy = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(count)]
    try:
        yield
    finally:
        for process in busy:
            process.kill()
            process.wait()


def measured(policy: str | None, threads: int, batch: int, steps: int) -> float:
    """The median step of a process of its own."""
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    environment |= {"OMP_NUM_THREADS": str(threads)} | ({"OMP_WAIT_POLICY": policy} if policy else {})
    command = [sys.executable, "-W", "ignore", __file__, "--child", "--batch", str(batch), "--steps", str(steps)]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    seconds: float = json.loads(done.stdout.splitlines()[-1])
    return seconds


def timed_steps(size: int, steps: int) -> float:
    """Median seconds; the first two steps warm up."""
    import torch
    from omegaconf import OmegaConf

    import lavis_mafa

    lavis_mafa.register()
    from lavis_mafa.data.scenes.dataset import scenes_table
    from lavis_mafa.models.blip2.stage1 import MafaBlip2

    torch.manual_seed(0)
    model = MafaBlip2.from_config(OmegaConf.load(MafaBlip2.default_config_path("scenes")).model).train()
    optimizer = torch.optim.AdamW([value for value in model.parameters() if value.requires_grad], lr=1e-5)
    table, _, _ = scenes_table(size, seed=1)
    captions = [table.caption(table.caption_rows(record)[0]) for record in range(size)]
    batch = {"image": torch.randn(size, 3, 48, 48), "text_input": captions, "caption": captions, "epoch": 1}
    seconds = []
    for _ in range(2 + steps):
        began = time.perf_counter()
        model({**batch}).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        seconds.append(time.perf_counter() - began)
    return sorted(seconds[2:])[steps // 2]


if __name__ == "__main__":
    main()
