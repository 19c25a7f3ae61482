"""Signals and kills at random moments of trainings on two ranks, and of mining jobs; run by hand, in some 20 minutes.

    python -m tests.jobs.many_faults FOLDER --signals 50 --kills 20 --mining 20

Every job is interrupted up to four times, goes on, and has to end bit for bit as an unbroken one. Two processes stand
for torchrun: when one of them ends with an error, the other is ended, too, and where it takes more than 30 seconds, the
stack of its threads is written to its log. FOLDER/counts.json has the counts after every job; the same command goes on
from there.
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import os
import random
import shutil
import signal
import socket
import sys
import time
from argparse import Namespace
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
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
    faulthandler.register(signal.SIGUSR2)


def training(folder: Path) -> list[BaseProcess]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return [CONTEXT.Process(target=train, args=(rank, port, folder)) for rank in range(2)]


def mining(folder: Path) -> list[BaseProcess]:
    return [CONTEXT.Process(target=mine, args=(folder,))]


def life(processes: list[BaseProcess], names: list[tuple[int, str]], moment: float) -> tuple[list[int | None], float]:
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
                end(process)
    return [process.exitcode for process in processes], time.monotonic() - began


def end(process: BaseProcess) -> None:
    process.terminate()
    process.join(30)
    if process.is_alive():
        os.kill(process.pid or 0, signal.SIGUSR2)
        time.sleep(1)
        process.kill()
        process.join()


def same_mining(mine: Path, other: Path) -> None:
    for name in ("connections.parquet", "suspects.csv", "review.csv"):
        assert (mine / name).read_bytes() == (other / name).read_bytes(), name


@dataclass(frozen=True)
class Sort:
    """A sort of job: how it starts, draws an interruption, and is compared with an unbroken one."""

    start: Callable[[Path], list[BaseProcess]]
    draw: Callable[[random.Random], list[tuple[int, str]]]
    compare: Callable[[Path, Path], None]


def any_signal(draws: random.Random) -> list[tuple[int, str]]:
    return [(rank, draws.choice(SIGNALS)) for rank in draws.choice(((0,), (1,), (0, 1)))]


SORTS = {
    "signals": Sort(training, any_signal, ends_with_the_same),
    "kills": Sort(training, lambda draws: [(draws.randrange(2), "SIGKILL")], ends_with_the_same),
    "mining": Sort(mining, lambda _: [(0, "SIGKILL")], same_mining),
}


def whole(sort: Sort, folder: Path) -> float:
    """The seconds of an unbroken job, which stays in folder/whole."""
    if (took := folder / "seconds.json").exists():
        return float(json.loads(took.read_text()))
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    assert set(life(sort.start(folder / "again"), [], 0)[0]) == {0}  # the first one imports
    statuses, seconds = life(sort.start(folder / "whole"), [], 0)
    assert set(statuses) == {0}
    took.write_text(json.dumps(seconds))
    return seconds


def job(sort: Sort, folder: Path, number: int, most: int) -> Counter[str]:
    """The counts of one job, interrupted up to `most` times, that ended equal to the unbroken one."""
    seconds, run, draws, counts = whole(sort, folder), folder / f"job{number}", random.Random(number), Counter[str]()
    for old in folder.glob(f"{run.name}*"):  # of a job that was broken off
        shutil.rmtree(old) if old.is_dir() else old.unlink()
    for _ in range(most):
        names = sort.draw(draws)
        statuses, took = life(sort.start(run), names, draws.uniform(0, seconds))
        if set(statuses) == {0}:
            break  # it was quicker
        counts["interruptions"] += 1
        counts[" + ".join(sorted(name for _, name in names))] += 1
        counts["all ranks ended with 75"] += set(statuses) == {STATUS_OF_A_STOP}
        counts["a rank had to be killed after 30 s"] += took > 30
        print(f"{run}: {names} -> {statuses}, {took:.1f} s", flush=True)
    assert set(life(sort.start(run), [], 0)[0]) == {0}, f"{run} does not go on: see its logs"
    sort.compare(run, folder / "whole")
    counts["jobs, equal to the unbroken one"] += 1
    shutil.rmtree(run)
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    for name in SORTS:
        parser.add_argument(f"--{name}", type=int, default=0)
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    kept = given.folder / "counts.json"
    counts: dict[str, dict[str, int]] = json.loads(kept.read_text()) if kept.exists() else {}
    for name, sort in SORTS.items():
        found = Counter(counts.get(name, {}))
        while (left := getattr(given, name) - found["interruptions"]) > 0:
            found["jobs"] += 1
            found += job(sort, given.folder / name, found["jobs"], min(left, MOST))
            counts[name] = dict(found)
            kept.write_text(json.dumps(counts, indent=2) + "\n")
    print(kept.read_text())


if __name__ == "__main__":
    main()
