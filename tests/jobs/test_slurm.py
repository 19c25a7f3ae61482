"""The SLURM script, with stand-ins for SLURM's commands."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from lavis_mafa.runners.checkpoint import list_checkpoints
from tests.jobs.commands import ROOT, environment

SCRIPT = ROOT / "run_scripts" / "slurm" / "train.sbatch"
TINY = [
    *("datasets.scenes.splits.train.n=64", "datasets.scenes.splits.val.n=8", "datasets.scenes.splits.test.n=8"),
    *("run.batch_size_train=8", "run.max_epoch=1000", "run.search_space=64", "run.valid_splits=[]"),
    *("run.num_workers=1", "run.cache_tokens=false"),
]
SRUN = 'echo $$ > "$STAND_INS/srun"; exec "$@"'
SCONTROL = 'if [[ $1 == show ]]; then echo localhost; else echo "$@" >> "$STAND_INS/queued"; fi'
# To all processes of the step, as SLURM does it, in whatever process group they are
SCANCEL = """
signalled() { local child; for child in $(ps -o pid= --ppid "$1"); do signalled "$child"; done; kill -s USR1 "$1"; }
[[ "$*" == "--signal=USR1 7" ]] && signalled "$(cat "$STAND_INS/srun")"
"""


@pytest.fixture
def slurm(tmp_path: Path) -> dict[str, str]:
    """The environment of a job 7 on one node with one GPU."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL), ("scancel", SCANCEL)):
        (folder / name).write_text(f"#!/usr/bin/env bash\n{text}\n")
        (folder / name).chmod(0o755)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    inherited = environment(STAND_INS=str(tmp_path), PORT=port)
    job = {"SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "n1", "SLURM_NNODES": "1", "SLURM_GPUS_ON_NODE": "1"}
    return {**inherited, **job, "PATH": f"{folder}:{Path(sys.executable).parent}:{inherited['PATH']}"}


def test_at_its_time_limit_a_job_stops_with_a_checkpoint_and_is_queued_again(
    slurm: dict[str, str], tmp_path: Path
) -> None:
    out, log = tmp_path / "out", tmp_path / "log.txt"
    command = ["bash", str(SCRIPT), "--cfg-path", "projects/mafa/blip2/pretrain_stage1_scenes.yaml", "--options"]
    arguments = [*command, *TINY, f"run.output_dir={out}"]
    with open(log, "w") as written:
        job = subprocess.Popen(
            arguments, cwd=ROOT, env=slurm, stdout=written, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        until = time.monotonic() + 240
        while not list_checkpoints(out) and job.poll() is None and time.monotonic() < until:
            time.sleep(0.1)
        newest = list_checkpoints(out)[-1:]
        assert job.poll() is None, log.read_text()[-3000:]
        job.send_signal(signal.SIGUSR1)
        status = job.wait(timeout=120)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(job.pid, signal.SIGKILL)
    text = log.read_text()
    assert newest and "SIGUSR1: the run ends after this step" in text and "exitcode  : 75" in text, text[-3000:]
    assert status != 0 and (tmp_path / "queued").read_text() == "requeue 7\n"
    assert list_checkpoints(out)[-1:] != newest and not (out / "results.json").exists()
