"""`python -m lavis_mafa.doctor`: what this machine has, what is known not to work together, and what to do about it.

What might crash or hang is imported in a process of its own, with a time limit. Exit code 1: what this environment is
for cannot run. One without LAVIS and its extra is for a loop of one's own and for open_clip.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from packaging.requirements import Requirement

from lavis_mafa.common import gpus
from lavis_mafa.common.stdout import print_anything
from lavis_mafa.common.versions import installed_versions

GPU_FAISS = ("faiss-gpu", "faiss-gpu-cu11", "faiss-gpu-cu12")
WITHOUT_LAVIS = (
    "LAVIS is not installed: check, open_clip's training, your own loop and mine without a section `model` can run, "
    "train cannot"
)
LAVIS_REMEDY = 'pip install -e ".[lavis,cpu]" && pip install --no-deps salesforce-lavis==1.0.2'
MAIN_JOB = "the main job can run: lavis-mafa train --cfg-path projects/mafa/blip2/pretrain_stage1_scenes.yaml"
LAVIS_EXTRA = ("fairscale", "iopath", "pycocoevalcap")  # packages that nothing but LAVIS asks for
LEAST_GB = 2  # checkpoints and stores of the default job, with room to spare

# Each probe prints JSON lines: the last one says how far it came.
TORCH = """
import json, torch
print(json.dumps({"version": torch.__version__, "cuda": torch.version.cuda}), flush=True)
names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
for i in range(len(names)):
    torch.ones(8, 8, device=f"cuda:{i}").mm(torch.ones(8, 8, device=f"cuda:{i}")).sum().item()
print(json.dumps({"gpus": names}), flush=True)
"""
FAISS = """
import json, numpy as np, faiss
print(json.dumps({"version": faiss.__version__, "build": faiss.get_compile_options().strip()}), flush=True)
rows = np.eye(8, dtype=np.float32)
index = faiss.IndexFlatIP(8)
index.add(rows)
assert (index.search(rows, 1)[1][:, 0] == np.arange(8)).all(), "the nearest neighbour of a vector is not itself"
print(json.dumps({"search": "cpu"}), flush=True)
gpus = getattr(faiss, "get_num_gpus", lambda: 0)()
if gpus:
    index = faiss.index_cpu_to_gpu(faiss.StandardGpuResources(), 0, index)
    assert (index.search(rows, 1)[1][:, 0] == np.arange(8)).all(), "the GPU's nearest neighbour is wrong"
print(json.dumps({"search": "gpu" if gpus else "cpu", "gpus": gpus, "done": True}), flush=True)
"""
LAVIS = """
import json, lavis_mafa
lavis_mafa.register()
print(json.dumps({"done": True}), flush=True)
"""


@dataclass
class Probe:
    """What a probe printed before it ended. fault: "" where it ended by itself."""

    facts: dict[str, object] = field(default_factory=dict)
    fault: str = ""
    died: bool = False  # of a signal, or of the time limit: no exception that a program could catch


@dataclass(frozen=True)
class Finding:
    """What is wrong and what helps. blocks: the main job cannot run."""

    message: str
    remedy: str
    blocks: bool = False


def probe(code: str, timeout: float) -> Probe:
    """Run `code` in a Python of its own."""
    command = [sys.executable, "-W", "ignore", "-c", code]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout)
    except subprocess.TimeoutExpired as error:
        output = error.stdout or b""
        text = output.decode(errors="replace") if isinstance(output, bytes) else output
        return Probe(_facts(text), f"it did not finish within {timeout:g} s", died=True)
    if done.returncode < 0:
        return Probe(_facts(done.stdout), f"it was killed by signal {-done.returncode}", died=True)
    lines = done.stderr.strip().splitlines()
    return Probe(_facts(done.stdout), (lines[-1] if lines else "it failed") if done.returncode else "")


def _facts(output: str) -> dict[str, object]:
    facts: dict[str, object] = {}
    for line in output.splitlines():
        if line.startswith("{"):
            facts.update(json.loads(line))
    return facts


def judge_versions(found: Mapping[str, str]) -> Iterator[Finding]:
    """Combinations that are known not to work, from the versions alone."""
    if not (3, 10) <= sys.version_info[:2] <= (3, 13):
        yield Finding(
            f"Python {platform.python_version()} is not supported: lavis_mafa is tested with 3.10 to 3.13",
            "build the environment with one of these: PYTHON=python3.13 bash run_scripts/setup.sh",
            blocks="salesforce-lavis" not in found,
        )
    if "salesforce-lavis" not in found:
        also = [name for name in LAVIS_EXTRA if is_installed(name)]
        why = f"LAVIS is not installed, but {', '.join(also)} of its extra are" if also else WITHOUT_LAVIS
        yield Finding(why, LAVIS_REMEDY, blocks=bool(also))
    gpu = [name for name in GPU_FAISS if name in found]
    if "faiss-cpu" in found and gpu:
        yield Finding(
            f"faiss-cpu and {gpu[0]} are both installed: both provide the module faiss, so one has overwritten "
            "the other",
            f"pip uninstall -y faiss-cpu {gpu[0]}, then reinstall one of them",
        )
    if "faiss-cpu" not in found and not gpu:
        yield Finding("FAISS is not installed: batches are planned with torch's exact search", "pip install faiss-cpu")


def is_installed(package: str) -> bool:
    try:
        return bool(version(package))
    except PackageNotFoundError:
        return False


def judge_ranges(requirements: Iterable[str]) -> Iterator[Finding]:
    """Installed packages that are older or newer than `requirements` allow, whichever extra names them."""
    wanted = {f"{one.name}{one.specifier}": one for one in map(Requirement, requirements)}
    for text, requirement in wanted.items():
        try:
            number = version(requirement.name)
        except PackageNotFoundError:
            continue
        if not requirement.specifier.contains(number, prereleases=True):
            message = f"{requirement.name} {number} is installed, {text} is needed"
            yield Finding(message, f'pip install "{text}"', blocks=True)


def own_requirements() -> list[str]:
    """What this package's metadata asks for; nothing where it is imported from a folder that was never installed."""
    try:
        return requires("lavis_mafa") or []
    except PackageNotFoundError:
        return []


def judge_pickles() -> Iterator[Finding]:
    """A variable of torch that makes it read checkpoints as before 2.6."""
    name = "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"
    if os.environ.get(name, "0").lower() in ("1", "y", "yes", "true"):
        yield Finding(f"{name} is set: torch.load runs the code that a checkpoint holds", f"unset {name}", blocks=True)


def judge_faiss(result: Probe, installed: bool) -> Iterator[Finding]:
    """A FAISS that raises is done without (core/neighbors.py); one that crashes or hangs takes the job with it."""
    if not result.fault or not (installed or result.died):
        return
    if "version" not in result.facts:
        what = f"faiss cannot be imported here: {result.fault}"
    elif result.facts.get("search") == "cpu":
        what = f"this FAISS GPU build cannot run here: {result.fault}"
    else:
        what = f"faiss cannot search here: {result.fault}"
    also = "" if result.died else "; until then, batches are planned without it"
    yield Finding(what, f"pip uninstall -y faiss-cpu faiss-gpu && pip install faiss-cpu{also}", blocks=result.died)


def judge_imports(torch: Probe, lavis: Probe) -> Iterator[Finding]:
    if "version" not in torch.facts:
        yield Finding(
            f"torch cannot be imported: {torch.fault}", "bash run_scripts/setup.sh builds a complete .venv", blocks=True
        )
        return
    if torch.fault:
        yield Finding(
            f"the GPU cannot be used: {torch.fault}", "set run.device=cpu, or install a torch for this driver"
        )
    elif not torch.facts.get("gpus"):
        cuda = torch.facts.get("cuda")
        if idle := gpus.unused(str(torch.facts["version"]), str(cuda) if cuda else None):
            yield Finding(*idle, blocks=True)  # run.device: auto refuses to run there
    if lavis.fault:
        remedy = "bash run_scripts/setup.sh builds a .venv with the tested versions (constraints/)"
        yield Finding(f"LAVIS and lavis_mafa cannot be registered: {lavis.fault}", remedy, blocks=True)


def folders() -> dict[str, Path]:
    """Where a run reads and writes."""
    home = Path.home() / ".cache"
    return {
        "output (run.output_dir)": Path("output"),
        "LAVIS cache (LAVIS_MAFA_CACHE)": Path(os.environ.get("LAVIS_MAFA_CACHE", home / "lavis")),
        "Hugging Face cache (HF_HOME)": Path(os.environ.get("HF_HOME", home / "huggingface")),
        "torch cache (TORCH_HOME)": Path(os.environ.get("TORCH_HOME", home / "torch")),
    }


def free_gb(path: Path) -> float:
    """Free disk where `path` is, or will be."""
    existing = next(parent for parent in (path.resolve(), *path.resolve().parents) if parent.exists())
    return shutil.disk_usage(existing).free / 1e9


def main(arguments: list[str] | None = None) -> int:
    print_anything()
    parser = argparse.ArgumentParser(
        prog="python -m lavis_mafa.doctor", description="Check whether this machine can run lavis_mafa"
    )
    parser.add_argument("--timeout", type=float, default=180, help="time limit of each check, in seconds")
    timeout = parser.parse_args(arguments).timeout
    found = installed_versions()
    torch, faiss, lavis = (probe(code, timeout) for code in (TORCH, FAISS, LAVIS))
    _print_facts(found, torch, faiss)
    installed = any(name in found for name in ("faiss-cpu", *GPU_FAISS))
    has_lavis = "salesforce-lavis" in found
    findings = [
        *judge_versions(found),
        *judge_ranges(own_requirements()),
        *judge_pickles(),
        *judge_faiss(faiss, installed),
        *judge_imports(torch, lavis if has_lavis else Probe()),
    ]
    if free_gb(Path("output")) < LEAST_GB:
        findings.append(
            Finding(f"less than {LEAST_GB} GB of disk space are free for output", "free some disk space", blocks=True)
        )
    for finding in findings:
        print(f"{'ERROR' if finding.blocks else 'warning'}: {finding.message}\n  remedy: {finding.remedy}")
    blocked = any(finding.blocks for finding in findings)
    if blocked:
        print("the main job cannot run here")
    else:
        print(MAIN_JOB if has_lavis else "what needs no LAVIS can run")
    return int(blocked)


def _print_facts(found: Mapping[str, str], torch: Probe, faiss: Probe) -> None:
    seen = torch.facts.get("gpus") or []
    print(f"python {platform.python_version()}, {platform.platform()}, {os.cpu_count()} CPU cores")
    print("\n".join(f"  {package} {number}" for package, number in found.items()))
    print(f"devices: cpu{''.join(f', {name}' for name in seen)} (torch for CUDA {torch.facts.get('cuda') or 'none'})")
    search = faiss.facts.get("search")
    print(f"FAISS: {faiss.facts.get('version', 'none')} {faiss.facts.get('build', '')}, search: {search}")
    for name, path in folders().items():
        print(f"{name}: {path}{'' if path.exists() else ' (does not exist yet)'}, {free_gb(path):.0f} GB free")
    print(f"data (LAVIS_MAFA_DATA): {os.environ.get('LAVIS_MAFA_DATA', 'not set')}")


if __name__ == "__main__":
    sys.exit(main())
