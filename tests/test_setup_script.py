"""run_scripts/setup.sh in an empty checkout, with stand-ins for Python, uv and package managers on PATH."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

SETUP = Path(__file__).resolve().parents[1] / "run_scripts" / "setup.sh"
TOOLS = ("bash", "cat", "cksum", "dirname", "flock", "ln", "mkdir", "rm", "sh", "sleep")
INSTALLED = ["--no-deps --require-hashes -r constraints/py312.txt", "--no-deps -e ."]

# Says its version and where its lavis_mafa is, makes a "venv" of itself, logs what pip is asked for, then does `pip`.
PYTHON = """case "$*" in
  -V) echo Python {version} ;; *version_info*) echo {version} ;; *find_spec*) echo "{origin}" ;;
  *ensurepip*) {venv} ;; "-m venv "*) mkdir -p "$3/bin" && ln -sf "$0" "$3/bin/python" ;;
  "-m pip "*) echo "$*" >> ../pip.log; {pip} ;;
esac"""
UV = """echo "uv $*" >> ../pip.log
[ "$1" = pip ] || { mkdir -p .venv/bin && ln -sf "$BASE" .venv/bin/python; }"""


class Machine:
    """An empty checkout, and the commands on PATH: a Python 3.12 first."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.checkout, self.bin = folder, folder / "check out", folder / "bin"
        for name in ("pyproject.toml", "lavis_mafa/__init__.py", "constraints/py310.txt", "constraints/py312.txt"):
            (self.checkout / name).parent.mkdir(parents=True, exist_ok=True)
            (self.checkout / name).touch()
        shutil.copytree(SETUP.parent, self.checkout / "run_scripts")
        self.bin.mkdir()
        for tool in TOOLS:
            (self.bin / tool).symlink_to(shutil.which(tool) or pytest.skip(f"no {tool} here"))
        self.python("python3.12")

    def command(self, path: str | Path, text: str) -> Path:
        (path := self.bin / path).parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)
        return path

    def python(self, path: str | Path, version: str = "3.12", **does: str) -> Path:
        return self.command(path, PYTHON.format(version=version, **{"venv": "", "origin": "", "pip": "", **does}))

    def popen(self, script: str = "run_scripts/setup.sh", **variables: str) -> subprocess.Popen[str]:
        command, pipe = [str(self.bin / "bash"), str(self.checkout / script)], subprocess.PIPE
        variables = {"PATH": str(self.bin), **variables}
        # In a session of its own, so that it can be killed with all its children.
        return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=variables, start_new_session=True)

    def start(self, script: str = "run_scripts/setup.sh", status: int = 0, **variables: str) -> str:
        """Standard output of a start that succeeds, standard error of one that must not."""
        process = self.popen(script, **variables)
        out, err = process.communicate(timeout=60)
        assert process.returncode == status and (status == 0 or not out), (out, err)
        return err if status else out.strip()

    def installed(self) -> list[str]:
        """What pip was asked for since the last call."""
        (log := self.folder / "pip.log").touch()
        lines = log.read_text().splitlines()
        log.unlink()
        return [line.split("--disable-pip-version-check ")[-1] for line in lines]


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_a_start_installs_the_lock_and_the_next_one_what_changed(machine: Machine) -> None:
    assert machine.start() == f"{machine.checkout}/.venv/bin/python"
    assert machine.installed() == INSTALLED
    machine.start()
    assert machine.installed() == []
    (machine.checkout / "constraints" / "py312.txt").write_text("torch==2\n")
    machine.start()
    assert len(machine.installed()) == 2
    machine.checkout = machine.checkout.rename(machine.folder / "elsewhere")
    machine.start()
    assert len(machine.installed()) == 2


def test_an_unfinished_set_up_starts_from_scratch(machine: Machine) -> None:
    os.mkfifo(reached := machine.folder / "reached")
    machine.python("python3.12", pip=": > .venv/half; echo > ../reached; exec sleep 60")
    process = machine.popen()
    reached.read_text()  # waits until pip is at work
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)
    half = machine.checkout / ".venv" / "half"
    machine.python("python3.12", pip="[ -e .venv/half ] && echo > ../kept; exit 1")
    (machine.checkout / ".venv" / "lavis_mafa.built").touch()  # also of an update that was cut off
    assert half.exists() and "the installation failed" in machine.start(status=1)
    assert not half.exists() and not (machine.folder / "kept").exists()
    machine.python("python3.12")
    machine.start()
    machine.installed()
    machine.start()
    assert machine.installed() == []


def test_two_starts_at_once_set_up_once(machine: Machine) -> None:
    machine.python("python3.12", pip="sleep 1")
    processes = [machine.popen(), machine.popen()]
    outputs = [process.communicate(timeout=60) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert len(machine.installed()) == 2
    assert sum("waiting" in err for _, err in outputs) == 1


def test_the_newest_supported_python_is_taken_or_the_one_that_is_named(machine: Machine) -> None:
    machine.python("python3", version="3.14")
    named = str(machine.python("my python", version="3.10"))
    locks = []
    for variables in ({}, {"PYTHON": named}, {}):
        machine.start(**variables)
        locks += [line[-8:-4] for line in machine.installed() if "constraints" in line]
    assert locks == ["y312", "y310"]


@pytest.mark.parametrize("remedy", ["apt install python3-venv", "dnf install python3.13", "brew install python@3.13"])
def test_an_unsupported_python_names_what_to_install_on_this_system(machine: Machine, remedy: str) -> None:
    (machine.bin / "python3.12").unlink()
    machine.python("python3", version="3.9")
    machine.command(remedy.split()[0], "")
    err = machine.start(status=1)
    assert "3.10 to 3.13 is needed, but python3 is Python 3.9" in err and remedy in err and "install uv" in err
    assert "but no-python is" in machine.start(status=1, PYTHON="no-python")
    assert not (machine.checkout / ".venv").exists()


def test_a_missing_venv_module_names_its_package_and_uv_needs_none(machine: Machine) -> None:
    python = machine.python("python3.12", venv="exit 1")
    assert "apt install python3.12-venv" in machine.start(status=1)
    base = python.rename(machine.folder / "base")  # none is on PATH: uv brings one
    machine.command("uv", UV)
    machine.start(BASE=str(base))
    pip = f"uv pip install --python {machine.checkout}/.venv/bin/python"
    assert machine.installed() == [
        "uv venv --quiet --seed --python 3.13 .venv",
        *(f"{pip} {what}" for what in INSTALLED),
    ]


def test_an_environment_of_another_hand_is_used_where_it_has_this_checkout(machine: Machine) -> None:
    active, venv = machine.folder / "active", machine.checkout / ".venv"
    python = machine.python(active / "bin" / "python", origin=f"{machine.checkout}/lavis_mafa/__init__.py")
    assert machine.start(VIRTUAL_ENV=str(active)) == machine.start(CONDA_PREFIX=str(active)) == str(python)
    assert not venv.exists()
    machine.python(venv / "bin" / "python", origin=str(SETUP))
    assert "was not built by this script" in machine.start(status=1)
    machine.python(venv / "bin" / "python", origin="lavis_mafa/__init__.py")
    machine.python(python, origin=str(SETUP))
    assert machine.start(VIRTUAL_ENV=str(active)) == f"{venv}/bin/python"
    assert machine.installed() == []


def test_what_a_script_gets(machine: Machine) -> None:
    (machine.folder / "shared" / "data").mkdir(parents=True)
    script = 'set -eu\nsource "${0%/*}/run_scripts/setup.sh"\necho "$LAVIS_MAFA_DATA $PYTHON_BIN"\n'
    (machine.checkout / "job.sh").write_text(script)
    assert machine.start("job.sh") == f"{machine.folder}/shared/data {machine.checkout}/.venv/bin/python"
    assert machine.start("job.sh", LAVIS_MAFA_DATA="/mine").startswith("/mine ")
    assert "LAVIS_MAFA_EXTRAS is gone" in machine.start(status=1, LAVIS_MAFA_EXTRAS="lavis,gpu")
