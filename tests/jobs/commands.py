"""Run a real command as a user does, and read what it wrote."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PASSING = ("s_it", "data_share")  # clock readings, never the same twice


def environment(**more: str) -> dict[str, str]:
    """This process' environment, with its Python first on the path and one thread: a test's rivals are other tests."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    data = os.environ.get("LAVIS_MAFA_DATA", str(ROOT.parent / "shared" / "data"))
    quiet = {"TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHON"}  # would win over PATH's Python
    return {**inherited, **quiet, "PATH": path, "LAVIS_MAFA_DATA": data, **more}


def run(*command: str, cwd: Path = ROOT, **more: str) -> str:
    """The output of a command that must succeed."""
    done = subprocess.run(command, cwd=cwd, env=environment(**more), capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-3000:]}\n{done.stderr[-5000:]}"
    return done.stdout


def train(config: str, *options: str) -> list[str]:
    return [sys.executable, "-m", "lavis_mafa.train", "--cfg-path", config, "--options", *options]


def rows(path: Path) -> list[dict[str, Any]]:
    """JSON lines less the clock readings."""
    return [
        {key: value for key, value in json.loads(line).items() if key not in PASSING}
        for line in path.read_text().splitlines()
    ]
