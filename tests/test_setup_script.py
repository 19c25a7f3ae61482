"""run_scripts/setup.sh in an empty checkout, with stand-ins for python, uv, df and /etc/os-release on PATH."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TOOLS = "bash awk grep tail cksum flock dirname rm sleep du cut sed touch sh mkdir ln".split()  # noqa: SIM905

# Prints its version, makes a "venv" of itself and logs what pip is asked for; `{pip}` is what an installation does.
PYTHON = """#!/bin/sh
case "$*" in
  *version_info*) echo {version} ;;
  *"import ensurepip"*) exit {no_venv} ;;
  *find_spec*) {active} ;;
  "-m venv "*) mkdir -p "$3/bin" && ln -sf "$0" "$3/bin/python" ;;
  "-m pip install "*) echo "$*" >> "{log}"; {pip} ;;
  *) exit 1 ;;
esac
"""
UV = """#!/bin/sh
echo "uv $*" >> "{log}"
[ "$1" = pip ] || {{ mkdir -p .venv/bin && ln -sf "{python}" .venv/bin/python; }}
"""


class Machine:
    """An empty checkout and the commands on PATH."""

    def __init__(self, folder: Path) -> None:
        self.checkout, self.bin, self.log = folder / "check out", folder / "bin", folder / "pip.log"
        self.venv, self.unfinished = self.checkout / ".venv", self.checkout / ".venv.unfinished"
        for path in (self.checkout / "run_scripts", self.checkout / "constraints", self.bin):
            path.mkdir(parents=True)
        shutil.copy(ROOT / "run_scripts" / "setup.sh", self.checkout / "run_scripts")
        (self.checkout / "pyproject.toml").write_text("[project]\n")
        (self.checkout / "constraints" / "py312.txt").write_text("torch==1\n")
        for tool in TOOLS:
            (self.bin / tool).symlink_to(shutil.which(tool) or pytest.skip(f"no {tool} here"))
        self.command("df", "#!/bin/sh\necho head; echo disk 1 1 99000000 1% /\n")
        self.system("debian", "13")

    def command(self, name: str, text: str) -> None:
        (self.bin / name).write_text(text)
        (self.bin / name).chmod(0o755)

    def system(self, name: str, version: str) -> None:
        release = f'ID={name}\\nVERSION_ID="{version}"\\n'
        self.command(
            "cat", f'#!/bin/sh\n[ "$1" = /etc/os-release ] && printf \'{release}\' || exec {shutil.which("cat")} "$@"\n'
        )

    def python(self, name: str = "python3.12", version: str = "3.12", no_venv: int = 0, **does: str) -> None:
        does = {"pip": "exit 0", "active": "exit 1", **does}
        self.command(name, PYTHON.format(version=version, no_venv=no_venv, log=self.log, **does))

    def popen(self, **variables: str) -> subprocess.Popen[str]:
        command = [str(self.bin / "bash"), str(self.checkout / "run_scripts" / "setup.sh")]
        pipe, variables = subprocess.PIPE, {"PATH": str(self.bin), **variables}
        # In a session of its own, so that it can be killed with all its children.
        return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=variables, start_new_session=True)

    def start(self, **variables: str) -> tuple[str, str]:
        """Standard output and error of a start that succeeds."""
        process = self.popen(**variables)
        out, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
        return out.strip(), err

    def refusal(self, **variables: str) -> str:
        """Standard error of a start that fails."""
        process = self.popen(**variables)
        out, err = process.communicate(timeout=60)
        assert process.returncode == 1 and out == "", (out, err)
        return err

    @property
    def installs(self) -> list[str]:
        """What pip was asked for; two lines a set-up: the lock, then this checkout."""
        return self.log.read_text().splitlines() if self.log.exists() else []


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_the_first_start_installs_the_lock_and_the_second_nothing(machine: Machine) -> None:
    machine.python()
    python, err = machine.start()
    assert python == str(machine.venv / "bin" / "python") and ".venv is ready" in err
    lock, checkout = machine.installs
    assert lock.endswith("--no-deps --require-hashes -r constraints/py312.txt")
    assert checkout.endswith("--no-deps -e .")
    assert machine.start() == (python, "")
    assert machine.installs == [lock, checkout]


@pytest.mark.parametrize("changed", ["pyproject.toml", "constraints/py312.txt", "the checkout's place"])
def test_what_changed_is_installed_once(machine: Machine, changed: str) -> None:
    machine.python()
    machine.start()
    if (machine.checkout / changed).exists():
        (machine.checkout / changed).write_text("# changed\n")
    else:
        machine.checkout = machine.checkout.rename(machine.checkout.with_name("elsewhere"))
    machine.start()
    machine.start()
    assert len(machine.installs) == 4


def test_a_failed_set_up_starts_from_scratch(machine: Machine) -> None:
    machine.python(pip="echo 'no route to host'; exit 1")
    err = machine.refusal()
    assert "no route to host" in err and "start again" in err
    (machine.venv / "half-installed").touch()
    machine.python()
    machine.start()
    assert not (machine.venv / "half-installed").exists() and not machine.unfinished.exists()


def test_a_killed_set_up_starts_from_scratch(machine: Machine) -> None:
    machine.python(pip='echo half way >&2; touch .venv/half-installed; echo reached > "$REACHED"; exec sleep 60')
    reached = machine.checkout.parent / "reached"
    os.mkfifo(reached)
    process = machine.popen(REACHED=str(reached))
    assert reached.read_text() == "reached\n"  # waits until pip is at work
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)
    machine.python()
    machine.start()
    assert not (machine.venv / "half-installed").exists()


def test_two_starts_at_once_set_up_once(machine: Machine) -> None:
    machine.python(pip="sleep 1")
    processes = [machine.popen(), machine.popen()]
    outputs = [process.communicate(timeout=60) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert len(machine.installs) == 2
    assert sum("waiting" in err for _, err in outputs) == 1


def test_python_names_the_interpreter(machine: Machine) -> None:
    machine.python()
    machine.start()
    (machine.checkout / "constraints" / "py310.txt").touch()
    machine.python("my python", version="3.10")
    machine.start(PYTHON=str(machine.bin / "my python"))
    assert "py310.txt" in machine.installs[-2]
    machine.start()
    assert len(machine.installs) == 4  # without PYTHON, it stays as it is
    assert "PYTHON=no-python" in machine.refusal(PYTHON="no-python")


def test_the_newest_supported_python_is_taken(machine: Machine) -> None:
    machine.python("python3", version="3.14")
    machine.python("python3.11", version="3.11")
    machine.python()
    assert f"with {machine.bin}/python3.12" in machine.start()[1]


@pytest.mark.parametrize(
    ("system", "remedy"),
    [
        (("debian", "12"), "apt install python3.11 python3.11-venv"),
        (("debian", "13"), "apt install python3.13 python3.13-venv"),
        (("ubuntu", "22.04"), "apt install python3.10 python3.10-venv"),
        (("ubuntu", "24.04"), "apt install python3.12 python3.12-venv"),
        (("fedora", "44"), "dnf install python3.13"),
        (("", ""), "brew install python@3.13"),
    ],
)
def test_an_unsupported_python_names_the_remedy_of_the_system(
    machine: Machine, system: tuple[str, str], remedy: str
) -> None:
    machine.python("python3", version="3.9")
    machine.system(*system)
    for name in ("dnf" if system[0] == "fedora" else "brew", "conda"):
        machine.command(name, "#!/bin/sh\n")
    err = machine.refusal()
    assert "3.10 to 3.13 is needed; found: python3 is 3.9;" in err
    assert remedy in err and "conda create" in err and "install uv" in err
    assert err.count("install python") == 1 and not machine.venv.exists()


def test_a_missing_venv_module_names_its_package(machine: Machine) -> None:
    machine.python(no_venv=1)
    assert "apt install python3.12-venv" in machine.refusal()
    assert not machine.venv.exists()


def test_uv_builds_where_it_is_found(machine: Machine) -> None:
    machine.python("some python", no_venv=1)
    machine.command("uv", UV.format(log=machine.log, python=machine.bin / "some python"))
    machine.start()
    build, lock, checkout = machine.installs
    assert build == "uv venv --quiet --seed --python 3.13 .venv"  # none is on PATH: uv brings one
    assert lock.endswith("--require-hashes -r constraints/py312.txt") and checkout.endswith("-e .")


@pytest.mark.parametrize(("free_gb", "enough"), [(9, False), (10, True)])
def test_a_full_disk_is_named(machine: Machine, free_gb: int, enough: bool) -> None:
    machine.python()
    machine.command("df", f"#!/bin/sh\necho head; echo disk 1 1 {free_gb * 1024 * 1024 + 5} 1% /\n")
    if enough:
        machine.start()
    else:
        assert "10 GB of free disk space" in (err := machine.refusal()) and "has 9 GB" in err
        assert not machine.venv.exists()


def test_an_active_environment_of_this_checkout_is_used(machine: Machine) -> None:
    active = machine.checkout.parent / "active"
    (active / "bin").mkdir(parents=True)
    machine.python("../active/bin/python", active="exit 0")
    assert machine.start(VIRTUAL_ENV=str(active)) == (str(active / "bin" / "python"), "")
    machine.python("../active/bin/python", active="echo lavis faiss")
    err = machine.refusal(VIRTUAL_ENV=str(active))
    assert "lacks lavis faiss" in err and "pip install --no-deps salesforce-lavis==1.0.2" in err
    assert not machine.venv.exists() and not machine.installs
    machine.python("../active/bin/python", active="exit 1")  # another checkout's
    machine.python()
    assert machine.start(VIRTUAL_ENV=str(active))[0] == str(machine.venv / "bin" / "python")


def test_the_question_put_to_an_active_environment(machine: Machine) -> None:
    """With this very interpreter, which has this checkout or another: not the stand-in's answer."""
    package = machine.checkout / "lavis_mafa" / "__init__.py"
    package.parent.mkdir()
    package.touch()
    script = (ROOT / "run_scripts" / "setup.sh").read_text()
    question = script.partition("-I -c '")[2].partition("' 2>")[0]
    assert "find_spec" in question

    def ask(folder: Path) -> subprocess.CompletedProcess[str]:
        code = f"import sys; sys.path.insert(0, {str(folder)!r})\n{question}"
        command = [sys.executable, "-I", "-c", code]
        return subprocess.run(command, cwd=machine.checkout, capture_output=True, text=True, timeout=60)

    assert ask(machine.checkout).returncode == 0
    assert ask(ROOT).returncode == 1


def test_an_environment_of_another_hand_is_not_touched(machine: Machine) -> None:
    machine.python(active="exit 1")
    (machine.venv / "bin").mkdir(parents=True)
    (machine.venv / "bin" / "python").symlink_to(machine.bin / "python3.12")
    assert "was not built by this script" in machine.refusal()
    assert not machine.installs
    machine.python(active="exit 0")  # it has what is needed
    assert machine.start()[0] == str(machine.venv / "bin" / "python")


def test_what_a_script_gets(machine: Machine) -> None:
    machine.python()
    data = machine.checkout.parent / "shared" / "data"
    data.mkdir(parents=True)
    script = machine.checkout / "job.sh"
    script.write_text(
        'set -euo pipefail\nsource "$(dirname "$0")/run_scripts/setup.sh"\necho "$LAVIS_MAFA_DATA|$PYTHON_BIN"\n'
    )
    for given, found in (({}, data), ({"LAVIS_MAFA_DATA": "/mine"}, "/mine")):
        command, environment = (
            [str(machine.bin / "bash"), str(script), "--options"],
            {"PATH": str(machine.bin), **given},
        )
        output = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60).stdout
        assert output == f"{found}|{machine.venv}/bin/python\n"


def test_a_variable_that_is_gone_is_refused(machine: Machine) -> None:
    machine.python()
    assert "LAVIS_MAFA_EXTRAS is gone" in machine.refusal(LAVIS_MAFA_EXTRAS="lavis,gpu")
