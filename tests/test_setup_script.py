"""run_scripts/setup.sh in an empty checkout, with stand-ins for python, uv, df and /etc/os-release on PATH."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[1] / "run_scripts" / "setup.sh"
TOOLS = "bash awk grep tail cksum flock dirname rm sleep du cut sed sh mkdir ln".split()  # noqa: SIM905

# Prints its version, makes a "venv" of itself and logs what pip is asked for; `pip` and `active` are what it then does.
PYTHON = """#!/bin/sh
case "$*" in
  *version_info*) echo {version} ;;
  *"import ensurepip"*) exit {no_venv} ;;
  *find_spec*) {active} ;;
  "-m venv "*) mkdir -p "$3/bin" && ln -sf "$0" "$3/bin/python" ;;
  "-m pip install "*) echo "$*" >> ../pip.log; {pip} ;;
esac
"""
UV = """#!/bin/sh
echo "uv $*" >> ../pip.log
[ "$1" = pip ] || { mkdir -p .venv/bin && ln -sf "$BASE" .venv/bin/python; }
"""


class Machine:
    """An empty checkout and the commands on PATH."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.checkout, self.bin = folder, folder / "check out", folder / "bin"
        self.venv, self.python = self.checkout / ".venv", str(self.checkout / ".venv" / "bin" / "python")
        for path in (self.checkout / "run_scripts", self.checkout / "constraints", self.bin):
            path.mkdir(parents=True)
        shutil.copy(SCRIPT, self.checkout / "run_scripts")
        (self.checkout / "pyproject.toml").write_text("[project]\n")
        (self.checkout / "constraints" / "py312.txt").write_text("torch==1\n")
        for tool in TOOLS:
            (self.bin / tool).symlink_to(shutil.which(tool) or pytest.skip(f"no {tool} here"))
        self.disk(100)
        self.system("debian", "13")
        self.has_python()

    def command(self, name: str, text: str = "#!/bin/sh\n") -> None:
        (self.bin / name).write_text(text)
        (self.bin / name).chmod(0o755)

    def disk(self, free_gb: int) -> None:
        self.command("df", f"#!/bin/sh\necho head; echo disk 1 1 {free_gb * 1024 * 1024 + 5} 1% /\n")

    def system(self, name: str, version: str) -> None:
        release = f'[ "$1" = /etc/os-release ] && printf \'ID={name}\\nVERSION_ID="{version}"\\n\''
        self.command("cat", f'#!/bin/sh\n{release} || exec {shutil.which("cat")} "$@"\n')

    def has_python(self, name: str = "python3.12", version: str = "3.12", no_venv: int = 0, **does: str) -> None:
        self.command(name, PYTHON.format(version=version, no_venv=no_venv, **{"pip": "", "active": "exit 1", **does}))

    def popen(self, script: Path | None = None, **variables: str) -> subprocess.Popen[str]:
        command = [str(self.bin / "bash"), str(script or self.checkout / "run_scripts" / "setup.sh")]
        pipe, variables = subprocess.PIPE, {"PATH": str(self.bin), **variables}
        # In a session of its own, so that it can be killed with all its children.
        return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=variables, start_new_session=True)

    def start(self, script: Path | None = None, **variables: str) -> tuple[str, str]:
        """Standard output and error of a start that succeeds."""
        process = self.popen(script, **variables)
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
        log = self.folder / "pip.log"
        return log.read_text().splitlines() if log.exists() else []


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_the_first_start_installs_the_lock_and_the_second_nothing(machine: Machine) -> None:
    python, err = machine.start()
    assert python == machine.python and ".venv is ready" in err
    lock, checkout = machine.installs
    assert lock.endswith("--no-deps --require-hashes -r constraints/py312.txt") and checkout.endswith("--no-deps -e .")
    assert machine.start() == (python, "")
    assert machine.installs == [lock, checkout]


@pytest.mark.parametrize("changed", ["pyproject.toml", "constraints/py312.txt", "the checkout's place"])
def test_what_changed_is_installed_once(machine: Machine, changed: str) -> None:
    machine.start()
    if (machine.checkout / changed).exists():
        (machine.checkout / changed).write_text("# changed\n")
    else:
        machine.checkout = machine.checkout.rename(machine.checkout.with_name("elsewhere"))
    machine.start()
    machine.start()
    assert len(machine.installs) == 4


@pytest.mark.parametrize("how", ["failed", "killed"])
def test_an_unfinished_set_up_starts_from_scratch(machine: Machine, how: str) -> None:
    reached = machine.folder / "reached"
    os.mkfifo(reached)
    end = "exit 1" if how == "failed" else "echo > ../reached; exec sleep 60"
    machine.has_python(pip=f"echo no route to host; : > .venv/half; {end}")
    if how == "failed":
        assert "no route to host" in (err := machine.refusal()) and "start again" in err
    else:
        process = machine.popen()
        reached.read_text()  # waits until pip is at work
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate(timeout=60)
    assert (machine.venv / "half").exists()
    machine.has_python()
    machine.start()
    assert not (machine.venv / "half").exists() and not (machine.checkout / ".venv.unfinished").exists()


def test_two_starts_at_once_set_up_once(machine: Machine) -> None:
    machine.has_python(pip="sleep 1")
    processes = [machine.popen(), machine.popen()]
    outputs = [process.communicate(timeout=60) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert len(machine.installs) == 2
    assert sum("waiting" in err for _, err in outputs) == 1


def test_the_newest_supported_python_is_taken_or_the_one_that_is_named(machine: Machine) -> None:
    machine.has_python("python3", version="3.14")
    machine.has_python("my python", version="3.10")
    assert f"with {machine.bin}/python3.12" in machine.start()[1]
    (machine.checkout / "constraints" / "py310.txt").write_text("torch==2\n")
    machine.start(PYTHON=str(machine.bin / "my python"))
    machine.start()  # without PYTHON, it stays as it is
    assert [line.split()[-1] for line in machine.installs[::2]] == ["constraints/py312.txt", "constraints/py310.txt"]
    assert "PYTHON=no-python" in machine.refusal(PYTHON="no-python")


@pytest.mark.parametrize(
    ("system", "remedy"),
    [
        ("debian 12", "apt install python3.11 python3.11-venv"),
        ("debian 13", "apt install python3.13 python3.13-venv"),
        ("ubuntu 22.04", "apt install python3.10 python3.10-venv"),
        ("ubuntu 24.04", "apt install python3.12 python3.12-venv"),
        ("fedora 44", "dnf install python3.13"),
        (" ", "brew install python@3.13"),
    ],
)
def test_an_unsupported_python_names_the_remedy_of_the_system(machine: Machine, system: str, remedy: str) -> None:
    (machine.bin / "python3.12").unlink()
    machine.has_python("python3", version="3.9")
    machine.system(*system.split(" "))
    machine.command("dnf" if "fedora" in system else "brew")
    machine.command("conda")
    err = machine.refusal()
    assert "3.10 to 3.13 is needed; found: python3 is 3.9;" in err
    assert remedy in err and "conda create" in err and "install uv" in err and err.count("install python") == 1
    assert not machine.venv.exists()


def test_a_missing_venv_module_names_its_package_and_uv_needs_none(machine: Machine) -> None:
    machine.has_python(no_venv=1)
    assert "apt install python3.12-venv" in machine.refusal()
    assert not machine.venv.exists()
    machine.command("uv", UV)
    (machine.bin / "python3.12").rename(base := machine.folder / "base")  # none is on PATH: uv brings one
    machine.start(BASE=str(base))
    build, lock, checkout = machine.installs
    assert build == "uv venv --quiet --seed --python 3.13 .venv"
    assert lock.endswith("--require-hashes -r constraints/py312.txt") and checkout.endswith("--no-deps -e .")


def test_a_full_disk_is_named(machine: Machine) -> None:
    machine.disk(9)
    assert "10 GB of free disk space" in (err := machine.refusal()) and "has 9 GB" in err
    assert not machine.venv.exists()
    machine.disk(10)
    machine.start()


def test_an_active_environment_of_this_checkout_is_used(machine: Machine) -> None:
    active = machine.folder / "active"
    (active / "bin").mkdir(parents=True)
    machine.has_python("../active/bin/python", active="exit 0")
    assert machine.start(VIRTUAL_ENV=str(active)) == (str(active / "bin" / "python"), "")
    machine.has_python("../active/bin/python", active="echo lavis faiss")
    err = machine.refusal(VIRTUAL_ENV=str(active))
    assert "lacks lavis faiss" in err and "pip install --no-deps salesforce-lavis==1.0.2" in err
    assert not machine.venv.exists()
    machine.has_python("../active/bin/python", active="exit 1")  # another checkout's
    assert machine.start(VIRTUAL_ENV=str(active))[0] == machine.python


def test_an_environment_of_this_checkout_is_known(machine: Machine) -> None:
    """The script's question, put to this very interpreter."""
    (machine.checkout / "lavis_mafa").mkdir()
    (machine.checkout / "lavis_mafa" / "__init__.py").touch()
    question = SCRIPT.read_text().partition("-I -c '")[2].partition("' 2>")[0]
    assert "find_spec" in question
    for folder, status in ((machine.checkout, 0), (SCRIPT.parents[1], 1)):
        code = f"import sys; sys.path.insert(0, {str(folder)!r})\n{question}"
        assert subprocess.run([sys.executable, "-I", "-c", code], cwd=machine.checkout, timeout=60).returncode == status


def test_an_environment_of_another_hand_is_not_touched(machine: Machine) -> None:
    (machine.venv / "bin").mkdir(parents=True)
    Path(machine.python).symlink_to(machine.bin / "python3.12")
    assert "was not built by this script" in machine.refusal()
    machine.has_python(active="exit 0")  # it has what is needed
    assert machine.start()[0] == machine.python
    assert not machine.installs


def test_what_a_script_gets(machine: Machine) -> None:
    (machine.folder / "shared" / "data").mkdir(parents=True)
    script = machine.checkout / "job.sh"
    script.write_text('set -eu\nsource "${0%/*}/run_scripts/setup.sh"\necho "$LAVIS_MAFA_DATA $PYTHON_BIN"\n')
    assert machine.start(script)[0] == f"{machine.folder}/shared/data {machine.python}"
    assert machine.start(script, LAVIS_MAFA_DATA="/mine")[0] == f"/mine {machine.python}"


def test_a_variable_that_is_gone_is_refused(machine: Machine) -> None:
    assert "LAVIS_MAFA_EXTRAS is gone" in machine.refusal(LAVIS_MAFA_EXTRAS="lavis,gpu")
