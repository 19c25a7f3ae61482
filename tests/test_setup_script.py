"""run_scripts/setup.sh on machines that lack something: each told with its remedy; and what a second start costs.

Each test copies the script into an empty checkout and runs it with stand-ins for python, df and uname on PATH.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TOOLS = """bash cat sh sed awk tr grep paste tail sha256sum flock dirname pwd rm mv mkdir sleep du cut env touch kill
ln""".split()  # noqa: SIM905  what the script and the stand-ins call

# Stands in for a Python: tells its version, lacks lavis_mafa, makes a "venv" of itself, and logs pip's arguments.
PYTHON = """#!/bin/sh
case "$*" in
  *version_info*) echo {version} ;;
  *"import ensurepip"*) exit {no_venv} ;;
  "-m venv "*) mkdir -p "$3/bin" && ln -sf "$0" "$3/bin/python" ;;
  "-m pip install "*) echo "$*" >> "{log}"; {pip} ;;
  *) exit 1 ;;
esac
"""


class Machine:
    """An empty checkout and the commands on PATH."""

    def __init__(self, folder: Path) -> None:
        self.checkout, self.bin, self.log = folder / "check out", folder / "bin", folder / "pip.log"
        (self.checkout / "run_scripts").mkdir(parents=True)
        (self.checkout / "constraints").mkdir()
        self.bin.mkdir()
        shutil.copy(ROOT / "run_scripts" / "setup.sh", self.checkout / "run_scripts")
        (self.checkout / "setup.py").write_text("# setup\n")
        (self.checkout / "constraints" / "py311.txt").write_text("torch==1\n")
        for tool in TOOLS:
            (self.bin / tool).symlink_to(shutil.which(tool) or pytest.skip(f"no {tool} here"))
        self.command("df", "#!/bin/sh\necho head; echo disk 1 1 99000000 1% /\n")
        self.command("uname", '#!/bin/sh\n[ "$1" = -s ] && echo Linux || echo x86_64\n')

    def command(self, name: str, text: str) -> None:
        (self.bin / name).write_text(text)
        (self.bin / name).chmod(0o755)

    def python(self, name: str = "python3.11", version: str = "3.11", no_venv: int = 0, pip: str = "exit 0") -> None:
        self.command(name, PYTHON.format(version=version, no_venv=no_venv, log=self.log, pip=pip))

    def start(self, **variables: str) -> subprocess.CompletedProcess[str]:
        process = self.popen(**variables)
        out, err = process.communicate(timeout=60)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def popen(self, **variables: str) -> subprocess.Popen[str]:
        command = [str(self.bin / "bash"), str(self.checkout / "run_scripts" / "setup.sh")]
        environment = {"PATH": str(self.bin), "HOME": os.environ.get("HOME", "/"), **variables}
        pipe = subprocess.PIPE
        return subprocess.Popen(  # a session of its own, so that it can be killed with all its children
            command,
            stdout=pipe,
            stderr=pipe,
            stdin=subprocess.DEVNULL,
            text=True,
            env=environment,
            start_new_session=True,
        )

    @property
    def installs(self) -> list[str]:
        return self.log.read_text().splitlines() if self.log.exists() else []

    @property
    def venv(self) -> Path:
        return self.checkout / ".venv"


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def assert_told(result: subprocess.CompletedProcess[str], *words: str) -> None:
    assert result.returncode != 0
    assert result.stdout == ""
    for word in words:
        assert word in result.stderr


def test_first_start_installs_and_second_does_not(machine: Machine) -> None:
    machine.python()
    first = machine.start()
    assert first.returncode == 0, first.stderr
    assert first.stdout.strip() == str(machine.venv / "bin" / "python")
    assert "installing the extras lavis,cpu" in first.stderr
    assert "constraints/py311.txt" in machine.installs[0]
    start = time.perf_counter()
    second = machine.start()
    assert time.perf_counter() - start < 1.0
    assert (second.returncode, second.stdout, second.stderr) == (0, first.stdout, "")
    assert len(machine.installs) == 1


def test_extras_add_up(machine: Machine) -> None:
    machine.python()
    machine.start()
    machine.start(LAVIS_MAFA_EXTRAS="lavis,cpu,dev")
    machine.start()
    assert [line.partition("[")[2].partition("]")[0] for line in machine.installs] == ["lavis,cpu", "lavis,cpu,dev"]


def test_the_gpu_build_of_faiss_replaces_the_cpu_one_and_serves_for_both(machine: Machine) -> None:
    machine.python()
    machine.start()
    machine.start(LAVIS_MAFA_EXTRAS="lavis,gpu")
    machine.start()
    assert [line.partition("[")[2].partition("]")[0] for line in machine.installs] == ["lavis,cpu", "lavis,gpu"]


@pytest.mark.parametrize("changed", ["setup.py", "constraints/py311.txt"])
def test_a_changed_requirement_is_installed(machine: Machine, changed: str) -> None:
    machine.python()
    machine.start()
    (machine.checkout / changed).write_text("# changed\n")
    machine.start()
    machine.start()
    assert len(machine.installs) == 2


def test_a_failed_or_interrupted_set_up_is_built_anew(machine: Machine) -> None:
    machine.python(pip="echo 'no route to host'; exit 1")
    assert_told(machine.start(), "no route to host", "start again")
    left_over = machine.venv / "half-installed"
    left_over.touch()
    machine.python()
    result = machine.start()
    assert result.returncode == 0, result.stderr
    assert not left_over.exists()
    assert len(machine.installs) == 2


def test_a_killed_set_up_is_built_anew(machine: Machine) -> None:
    reached = machine.checkout / "reached"
    machine.python(pip=f"touch '{reached}'; exec sleep 60")
    process = machine.popen()
    while not reached.exists() and process.poll() is None:
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    left_over = machine.venv / "half-installed"
    left_over.touch()
    machine.python()
    result = machine.start()
    assert result.returncode == 0, result.stderr
    assert not left_over.exists()


def test_two_starts_at_once_set_up_once(machine: Machine) -> None:
    machine.python(pip="sleep 1")
    processes = [machine.popen(), machine.popen()]
    outputs = [process.communicate(timeout=30) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert len(machine.installs) == 1
    assert sum("waiting" in err for _, err in outputs) == 1


def test_a_moved_checkout_is_set_up_again(machine: Machine) -> None:
    machine.python()
    machine.start()
    machine.checkout = machine.checkout.rename(machine.checkout.with_name("elsewhere"))
    machine.start()
    assert len(machine.installs) == 2


@pytest.mark.parametrize("names", [("python3",), ("python3.11", "python3"), ("python",)])
def test_unsupported_python_is_told(machine: Machine, names: tuple[str, ...]) -> None:
    for name in names:
        machine.python(name, version="3.13")
    assert_told(machine.start(), "3.10 or 3.11", f"{names[0]} is 3.13", "apt install python3.11", "conda create")
    assert not machine.venv.exists()


def test_no_python_is_told(machine: Machine) -> None:
    assert_told(machine.start(), "3.10 or 3.11", "none", "apt install")


def test_python_variable_chooses(machine: Machine) -> None:
    (machine.checkout / "constraints" / "py310.txt").touch()
    machine.python()
    machine.python("mine", version="3.10")
    assert machine.start(PYTHON=str(machine.bin / "mine")).returncode == 0
    assert "constraints/py310.txt" in machine.installs[0]


def test_older_of_two_is_taken_where_only_it_serves(machine: Machine) -> None:
    (machine.checkout / "constraints" / "py310.txt").touch()
    machine.python("python3", version="3.12")
    machine.python("python3.10", version="3.10")
    result = machine.start()
    assert result.returncode == 0, result.stderr
    assert "python3.10 (Python 3.10)" in result.stderr


def test_missing_venv_module_is_told(machine: Machine) -> None:
    machine.python(no_venv=1)
    assert_told(machine.start(), "lacks the venv module", "apt install python3.11-venv")
    assert not machine.venv.exists()


@pytest.mark.parametrize(("free_kb", "enough"), [(10 * 1024 * 1024 - 1, False), (10 * 1024 * 1024, True)])
def test_low_disk_is_told(machine: Machine, free_kb: int, enough: bool) -> None:
    machine.python()
    machine.command("df", f"#!/bin/sh\necho head; echo disk 1 1 {free_kb} 1% /\n")
    result = machine.start()
    if enough:
        assert result.returncode == 0, result.stderr
    else:
        assert_told(result, "10 GB of free disk space", "has 9 GB", "Free some")
        assert not machine.installs


@pytest.mark.parametrize("platform", ["Darwin arm64", "Linux aarch64"])
def test_unsupported_platform_is_told(machine: Machine, platform: str) -> None:
    machine.python()
    system, processor = platform.split()
    machine.command("uname", f'#!/bin/sh\n[ "$1" = -s ] && echo {system} || echo {processor}\n')
    assert_told(machine.start(), f"{platform} is not supported", "docker run --platform linux/amd64")
    assert not machine.venv.exists()


def test_an_environment_of_another_hand_is_not_removed(machine: Machine) -> None:
    machine.python()
    (machine.venv / "bin").mkdir(parents=True)
    (machine.venv / "theirs").touch()
    assert_told(machine.start(), "was not built by this script", "Remove it")
    assert (machine.venv / "theirs").exists()


def active_environment(machine: Machine, package: Path, lavis: bool, name: str = "active") -> Path:
    """A real environment without pip whose lavis_mafa is `package`'s, with or without (empty) LAVIS and FAISS."""
    folder = machine.checkout.parent / name
    venv.create(folder, with_pip=False, symlinks=True)
    site = next((folder / "lib").glob("python3.*")) / "site-packages"
    (package / "lavis_mafa").mkdir(parents=True, exist_ok=True)
    (package / "lavis_mafa" / "__init__.py").touch()
    (site / "lavis_mafa.pth").write_text(f"{package}\n")
    for name in ("lavis", "faiss") if lavis else ():
        (site / f"{name}.py").touch()
    return folder


def test_an_active_environment_of_this_checkout_is_used(machine: Machine) -> None:
    active = active_environment(machine, machine.checkout, lavis=True)
    result = machine.start(VIRTUAL_ENV=str(active))
    assert (result.returncode, result.stdout.strip()) == (0, str(active / "bin" / "python")), result.stderr
    assert not machine.venv.exists()


def test_an_active_environment_that_lacks_an_extra_is_told(machine: Machine) -> None:
    active = active_environment(machine, machine.checkout, lavis=False)
    assert_told(machine.start(VIRTUAL_ENV=str(active)), "lacks the extras lavis,cpu", "pip install -e")
    assert not machine.venv.exists()


def test_an_active_environment_of_another_checkout_is_not_used(machine: Machine) -> None:
    machine.python()
    active = active_environment(machine, machine.checkout.parent / "other checkout", lavis=True)
    result = machine.start(VIRTUAL_ENV=str(active))
    assert result.stdout.strip() == str(machine.venv / "bin" / "python"), result.stderr


def test_the_own_environment_is_completed_though_it_is_active(machine: Machine) -> None:
    active = active_environment(machine, machine.checkout, lavis=False, name=str(machine.venv))
    assert_told(machine.start(VIRTUAL_ENV=str(active)), "installing the extras", "No module named pip")


def test_data_beside_the_checkout_is_found_unless_told_otherwise(machine: Machine) -> None:
    machine.python()
    data = machine.checkout.parent / "shared" / "data"
    data.mkdir(parents=True)
    script = machine.checkout / "job.sh"
    script.write_text(
        'set -euo pipefail\nsource "$(dirname "$0")/run_scripts/setup.sh"\necho "$LAVIS_MAFA_DATA|$PYTHON_BIN"\n'
    )
    command = [str(machine.bin / "bash"), str(script), "--options", "a.b=c"]
    found = []
    for variables in ({}, {"LAVIS_MAFA_DATA": "/mine"}):
        environment = {"PATH": str(machine.bin), **variables}
        found.append(
            subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60).stdout.strip()
        )
    python = machine.venv / "bin" / "python"
    assert found == [f"{data}|{python}", f"/mine|{python}"]
