"""The doctor tells a FAISS that can run from one that cannot, here a fake one, and says what blocks the main job."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from lavis_mafa import doctor

ROOT = Path(__file__).resolve().parents[2]
GOOD = """
import numpy as np
__version__ = "9.9"
def get_compile_options(): return "FAKE GPU"
class IndexFlatIP:
    def __init__(self, dim): pass
    def add(self, rows): self.rows = rows
    def search(self, rows, k): return None, np.argsort(-(rows @ self.rows.T), axis=1)[:, :k]
class StandardGpuResources: pass
"""
NO_DRIVER = (
    GOOD
    + """
def get_num_gpus(): return 1
def index_cpu_to_gpu(*a): raise RuntimeError("CUDA driver version is insufficient")
"""
)
ABORTS = (
    GOOD
    + """
import os
def get_num_gpus(): return 1
def index_cpu_to_gpu(*a): os.abort()
"""
)
WRONG = GOOD + "\nIndexFlatIP.search = lambda self, rows, k: (None, np.zeros((len(rows), k), int))\n"


def fake(folder: Path, monkeypatch: pytest.MonkeyPatch, **modules: str) -> None:
    for name, code in modules.items():
        (folder / f"{name}.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(folder), str(ROOT)]))


@pytest.mark.parametrize(
    ("code", "message", "blocks"),
    [
        (GOOD, "", False),
        (
            'raise RuntimeError("libcublas.so.12: cannot open")',
            "cannot be imported here: RuntimeError: libcublas",
            False,
        ),
        ("import time; time.sleep(60)", "cannot be imported here: it did not finish within", True),
        ("import os; os.abort()", "cannot be imported here: it was killed by signal 6", True),
        (NO_DRIVER, "this FAISS GPU build cannot run here: RuntimeError: CUDA driver", False),
        (ABORTS, "this FAISS GPU build cannot run here: it was killed by signal 6", True),
        (WRONG, "cannot search here: AssertionError", False),
    ],
)
def test_a_fake_faiss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, message: str, blocks: bool) -> None:
    fake(tmp_path, monkeypatch, faiss=code)
    findings = list(doctor.judge_faiss(doctor.probe(doctor.FAISS, timeout=3 if "sleep" in code else 100), True))
    assert [message in finding.message and finding.blocks == blocks for finding in findings] == (
        [True] if message else []
    )
    assert all("pip install faiss-cpu" in finding.remedy for finding in findings)


def test_known_bad_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "is_installed", lambda package: package == "iopath")
    well = {"salesforce-lavis": "1.0.2", "faiss-cpu": "1.15.1"}
    expected = {
        "faiss-cpu and faiss-gpu are both installed": {**well, "faiss-gpu": "1.15.1"},
        "LAVIS is not installed, but iopath": {"faiss-cpu": "1.15.1"},
        "FAISS is not installed": {"salesforce-lavis": "1.0.2"},
    }
    for words, found in expected.items():
        (finding,) = doctor.judge_versions(found)
        assert words in finding.message and finding.remedy
        assert finding.blocks == (words.startswith("LAVIS is not installed, but"))
    assert not list(doctor.judge_versions(well))


@pytest.mark.parametrize(("python", "fits"), [((3, 9), False), ((3, 10), True), ((3, 13), True), ((3, 14), False)])
def test_supported_pythons(python: tuple[int, int], fits: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.sys, "version_info", (*python, 0))
    found = list(doctor.judge_versions({"salesforce-lavis": "1.0.2", "faiss-cpu": "1.15.1"}))
    assert ["3.10 to 3.13" in finding.message for finding in found] == [True] * (not fits)


def test_versions_outside_the_ranges() -> None:
    wanted = ["numpy<1; extra == 'old'", "numpy<1", "torch>=2", "pytest>999", "no-such-package>1"]
    found = list(doctor.judge_ranges(wanted))
    assert [finding.message.split()[0] for finding in found] == ["numpy", "pytest"] and all(f.blocks for f in found)
    assert found[1].message.endswith("pytest>999 is needed") and found[1].remedy == 'pip install "pytest>999"'
    assert not list(doctor.judge_ranges(doctor.own_requirements()))


@pytest.mark.parametrize(("name", "old"), [("torch", "2.5.1"), ("omegaconf", "2.3.0")])
def test_versions_that_are_not_safe_with_files_of_others_block(
    name: str, old: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch.load runs code before 2.6, a YAML of aliases fills the memory before omegaconf 2.4."""
    monkeypatch.setattr(doctor, "version", lambda package: old if package == name else version(package))
    (finding,) = doctor.judge_ranges(doctor.own_requirements())
    assert finding.blocks and finding.message.startswith(f"{name} {old} is installed")


def test_the_command_says_what_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A lavis that cannot be imported: exit code 1, as a subprocess ends with it."""
    fake(tmp_path, monkeypatch, faiss=GOOD, lavis='raise ImportError("no decord here")')
    result = subprocess.run([sys.executable, "-m", "lavis_mafa.doctor"], capture_output=True, text=True, timeout=120)
    assert result.returncode == 1, result.stdout + result.stderr
    assert "ERROR: LAVIS and lavis_mafa cannot be registered: " in result.stdout
    assert "remedy: bash run_scripts/setup.sh" in result.stdout and "FAISS: 9.9 FAKE GPU" in result.stdout

    monkeypatch.setattr(doctor, "probe", lambda code, timeout: doctor.Probe({"version": "1", "done": True}))
    installed = {"salesforce-lavis": "1.0.2", "faiss-cpu": "1"}
    monkeypatch.setattr(doctor, "installed_versions", lambda: installed)
    monkeypatch.setattr(doctor, "own_requirements", list)
    assert doctor.main([]) == 0
    assert "the main job can run" in capsys.readouterr().out
    installed.pop("salesforce-lavis")
    monkeypatch.setattr(doctor, "is_installed", lambda package: False)
    monkeypatch.setattr(
        doctor, "probe", lambda code, timeout: doctor.Probe({"version": "1"}, "no LAVIS" * ("lavis" in code))
    )
    assert doctor.main([]) == 0  # an environment that was never meant to have it
    printed = capsys.readouterr().out
    assert "warning: LAVIS is not installed: check, " in printed
    assert "ERROR" not in printed and printed.endswith("what needs no LAVIS can run\n")
    monkeypatch.setattr(doctor, "free_gb", lambda path: 0.1)
    assert doctor.main([]) == 1


HIDE = """
import importlib.util
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *more: None if name == "lavis" else find(name, *more)
"""


@pytest.mark.parametrize("command", ["train", "mine"])
def test_without_lavis_a_command_says_so_in_one_line(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake(tmp_path, monkeypatch, sitecustomize=HIDE)
    words = ["-m", f"lavis_mafa.{command}", "--cfg-path", "projects/mafa/mine/mine_scenes.yaml"]
    done = subprocess.run([sys.executable, "-W", "ignore", *words], capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: LAVIS is missing in ") and "pip install --no-deps salesforce-lavis" in line
