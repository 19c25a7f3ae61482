"""Signals and kills at random moments of trainings on two ranks, and of mining jobs; run by hand, in some 20 minutes.

    python -m tests.jobs.many_faults FOLDER --signals 50 --kills 20 --mining 20

Every job is interrupted up to four times, goes on, and has to end bit for bit as an unbroken one. Two processes stand
for torchrun: when one of them ends with an error, the other is ended, too. Prints the counts.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import socket
import sys
import time
from argparse import Namespace
from collections import Counter
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path

from tests.jobs.commands import ROOT
from tests.jobs.test_faults import SCENES, SMALL, ends_with_the_same
from tests.ranks import CONTEXT

MINE = str(ROOT / "projects" / "mafa" / "mine" / "mine_scenes.yaml")
TRAINING = [*SMALL, "run.save_every_steps=0", "datasets.scenes.splits.train.n=100"]
MINING = ["datasets.scenes.splits.train.n=48", "datasets.scenes.splits.train.match_share=0.02", "run.range_max=6"]
MOST = 4  # interruptions of a job
STATUS_OF_A_STOP = 75
SIGNALS = ("SIGTERM", "SIGINT", "SIGUSR1")


def train(rank: int, port: int, folder: Path) -> None:
    from lavis_mafa.train import main

    into(folder.with_suffix(f".log{rank}"))
    ranks = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in ranks.items()})
    sys.argv = ["train", "--cfg-path", str(ROOT / SCENES), "--options", *TRAINING, f"run.output_dir={folder}"]
    main()


def mine(folder: Path) -> None:
    from lavis_mafa.mining_job import job

    into(folder.with_suffix(".log"))
    job.run(Namespace(cfg_path=MINE, options=[*MINING, f"run.output_dir={folder}"]))


def into(log: Path) -> None:
    import torch

    torch.set_num_threads(1)
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, 1), os.dup2(file, 2)


def training(folder: Path) -> list[BaseProcess]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return [CONTEXT.Process(target=train, args=(rank, port, folder)) for rank in range(2)]


def mining(folder: Path) -> list[BaseProcess]:
    return [CONTEXT.Process(target=mine, args=(folder,))]


def life(processes: list[BaseProcess], names: list[tuple[int, str]], moment: float) -> tuple[set[int | None], float]:
    """The exit statuses, after the signals to some of the processes at that moment, and the seconds that it took."""
    began, sent = time.monotonic(), False
    for process in processes:
        process.start()
    while any(process.is_alive() for process in processes):
        time.sleep(0.02)
        if names and not sent and time.monotonic() - began > moment:
            sent = True
            for number, name in names:
                if processes[number].is_alive():
                    os.kill(processes[number].pid or 0, getattr(signal, name))
        if any(process.exitcode for process in processes):  # as torchrun does
            for process in processes:
                process.terminate()
                process.join(30)
                process.kill()
    return {process.exitcode for process in processes}, time.monotonic() - began


def same_mining(mine: Path, other: Path) -> None:
    for name in ("connections.parquet", "suspects.csv", "review.csv"):
        assert (mine / name).read_bytes() == (other / name).read_bytes(), name


def interrupted(
    folder: Path,
    start: Callable[[Path], list[BaseProcess]],
    draw: Callable[[], list[tuple[int, str]]],
    wanted: int,
    compare: Callable[[Path, Path], None],
) -> Counter[str]:
    """Jobs until so many interruptions came in time, each compared with an unbroken one."""
    folder.mkdir(parents=True)
    counts, job = Counter[str](), 0
    assert life(start(folder / "whole"), [], 0)[0] == {0}
    _, seconds = life(start(folder / "again"), [], 0)  # the first one imports
    while counts["interruptions"] < wanted:
        job += 1
        run = folder / f"job{job}"
        for _ in range(MOST):
            names = draw()
            statuses, _ = life(start(run), names, random.uniform(0, seconds))
            if statuses == {0}:
                break  # it was quicker
            counts["interruptions"] += 1
            counts[" + ".join(sorted(name for _, name in names))] += 1
            counts["with exit status 75 of all ranks"] += statuses == {STATUS_OF_A_STOP}
            print(f"{folder.name}, job {job}: {names} -> {statuses}", flush=True)
        assert life(start(run), [], 0)[0] == {0}, f"{run} does not go on: see its logs"
        compare(run, folder / "whole")
        counts["jobs, equal to the unbroken one"] += 1
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    for name in ("signals", "kills", "mining"):
        parser.add_argument(f"--{name}", type=int, default=0)
    given = parser.parse_args()
    random.seed(0)
    signals = lambda: [(number, random.choice(SIGNALS)) for number in random.choice(((0,), (1,), (0, 1)))]  # noqa: E731
    sorts = {
        "signals": (training, signals, ends_with_the_same),
        "kills": (training, lambda: [(random.randrange(2), "SIGKILL")], ends_with_the_same),
        "mining": (mining, lambda: [(0, "SIGKILL")], same_mining),
    }
    for name, (start, draw, compare) in sorts.items():
        if wanted := getattr(given, name):
            print(name, dict(interrupted(given.folder / name, start, draw, wanted, compare)), flush=True)


if __name__ == "__main__":
    main()
