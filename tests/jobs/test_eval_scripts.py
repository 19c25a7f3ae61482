"""run_scripts/mafa/eval_*.sh: which YAMLs they evaluate, with which checkpoint, and the table at the end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

import lavis_mafa
from tests.jobs.commands import ROOT, environment, run

# Stands for the scripts' Python: notes an evaluation and writes what it would end with; all else is the real one's
STUB = """
import json, os, subprocess, sys
from pathlib import Path

arguments = sys.argv[1:]
modules = [arguments[i + 1] for i, argument in enumerate(arguments[:-1]) if argument == "-m"]
if "lavis_mafa.evaluate" not in modules:
    sys.exit(subprocess.run([sys.executable, *arguments]).returncode)
from omegaconf import OmegaConf

at = arguments.index("--options")
with open(os.environ["NOTES"], "a") as file:
    file.write(json.dumps([modules, *arguments[at - 1:]]) + "\\n")
run = OmegaConf.merge(OmegaConf.load(arguments[at - 1]), OmegaConf.from_dotlist(arguments[at + 1:])).run
results = {"config": {"run": OmegaConf.to_container(run)}, "expected": OmegaConf.to_container(run).get("expected")}
if run.get("task"):
    answers = {run.test_splits[0]: {"all": 50.0}}
    results |= {"task": run.task, "dataset": Path(arguments[at - 1]).stem, "answers": answers}
else:
    results["retrieval"] = {"itm": {"annotation": {way: {"r1": 60.0} for way in ("text", "image")}}}
folder = Path(run.output_dir)
folder.mkdir(parents=True)
(folder / "results.json").write_text(json.dumps(results))
"""


class Machine:
    """A shell whose Python is the stub; `gpus` of them are seen."""

    def __init__(self, folder: Path, gpus: int = 0) -> None:
        self.folder, self.notes = folder, folder / "notes.jsonl"
        (folder / "bin").mkdir()
        (folder / "stub.py").write_text(STUB)
        self._program("python", f'exec "{sys.executable}" "{folder / "stub.py"}" "$@"')
        self._program("nvidia-smi", f'for ((i = 0; i < {gpus}; i++)); do echo "GPU $i: H100"; done')

    def _program(self, name: str, text: str) -> None:
        (self.folder / "bin" / name).write_text(f"#!/usr/bin/env bash\n{text}\n")
        (self.folder / "bin" / name).chmod(0o755)

    def run(self, script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        path = f"{self.folder / 'bin'}:{os.environ['PATH']}"
        more = {"VIRTUAL_ENV": str(self.folder), "NOTES": str(self.notes), "LAVIS_MAFA_EVAL": str(self.folder / "eval")}
        return subprocess.run(
            ["bash", f"run_scripts/mafa/{script}.sh", *arguments],
            cwd=ROOT,
            env={**environment(**more), "PATH": path},
            capture_output=True,
            text=True,
        )

    def noted(self) -> list[tuple[list[str], str, list[str]]]:
        """Of every evaluation: the modules that ran, the YAML's name, its options."""
        rows: list[Any] = [json.loads(line) for line in self.notes.read_text().splitlines()]
        return [(modules, Path(yaml).stem, options) for modules, yaml, _, *options in rows]


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_retrieval_says_whose_figures_these_are(tmp_path: Path) -> None:
    lavis_mafa.register()
    from lavis_mafa.common.hashing import file_sha256
    from lavis_mafa.models.blip2.stage1 import MafaBlip2
    from lavis_mafa.models.trained import trained_state, weights_hash

    model = MafaBlip2.from_config(OmegaConf.load(MafaBlip2.default_config_path("scenes")).model)
    torch.save({"model": trained_state(model)}, tmp_path / "stage1.pth")
    yaml = "projects/mafa/eval/retrieval_scenes.yaml"
    options = (f"model.pretrained={tmp_path / 'stage1.pth'}", "datasets.scenes.splits.test.n=20", "run.k_test=2")
    command = (sys.executable, "-m", "lavis_mafa.evaluate", "--cfg-path", yaml, "--options", *options)
    run(*command, f"run.output_dir={tmp_path / 'out'}")
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    path = tmp_path / "stage1.pth"
    assert results["checkpoint"] == {"hash": weights_hash(model), "path": str(path), "sha256": file_sha256(path)}
    assert set(results["retrieval"]["itm"]["annotation"]) == {"text", "image"}


@pytest.mark.parametrize(
    ("script", "model", "yaml", "key"),
    [
        ("eval_gqa", [], "gqa_scenes", "pretrained"),
        ("eval_gqa", ["opt2.7b"], "gqa_opt2.7b", "pretrained"),
        ("eval_okvqa", [], "okvqa_scenes", "pretrained"),
        ("eval_vqav2", [], "vqav2_flant5xl", "pretrained"),
        ("eval_caption", [], "caption_scenes", "pretrained"),
        ("eval_caption", ["coco_flant5xl"], "caption_coco_flant5xl", "pretrained"),
        ("eval_nocaps", ["flant5xl"], "nocaps_flant5xl", "finetuned"),
        ("eval_retrieval_coco", [], "retrieval_coco", "finetuned"),
        ("eval_retrieval_flickr", [], "retrieval_flickr", "finetuned"),
    ],
)
def test_one_evaluation(script: str, model: list[str], yaml: str, key: str, machine: Machine) -> None:
    options = ["run.num_workers=3", f"run.output_dir={machine.folder / 'out'}"]
    done = machine.run(script, "x.pth", *model, *options)
    assert done.returncode == 0, done.stderr
    assert machine.noted() == [(["lavis_mafa.evaluate"], yaml, ["run.evaluate=true", f"model.{key}=x.pth", *options])]
    assert "usage: " in machine.run(script).stderr


def test_several_gpus_take_several_processes(tmp_path: Path) -> None:
    machine = Machine(tmp_path, gpus=2)
    machine.run("eval_gqa", "published", f"run.output_dir={tmp_path / 'out'}")
    ((modules, _, options),) = machine.noted()
    assert modules == ["torch.distributed.run", "lavis_mafa.evaluate"] and not any("pretrained" in o for o in options)


QUESTIONS = ["gqa", "okvqa", "vqav2"]
RETRIEVAL = ["retrieval_coco", "retrieval_flickr"]


def checkpoint_loaded(yaml: str, options: list[str]) -> str | None:
    """By the config that they make; an option that it does not know is an error."""
    lavis_mafa.register()
    from lavis_mafa.config.load import load_config
    from lavis_mafa.models.pretrained import checkpoint_path

    path = ROOT / "projects" / "mafa" / "eval" / f"{yaml}.yaml"
    return checkpoint_path(load_config(Namespace(cfg_path=str(path), options=options)).config.model)


def test_all_evaluations_end_in_one_table(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAVIS_MAFA_DATA", str(machine.folder))
    done = machine.run("eval_zeroshot", "x.pth", "opt2.7b", "stage1.pth", "run.num_workers=3")
    assert done.returncode == 0, done.stderr
    names = [f"{name}_opt2.7b" for name in (*QUESTIONS, "caption_coco", "nocaps")] + RETRIEVAL
    assert [yaml for _, yaml, _ in machine.noted()] == names
    options = {yaml: options for _, yaml, options in machine.noted()}
    assert all("run.num_workers=3" in one for one in options.values())
    assert all("model.pretrained=x.pth" in options[name] for name in names[:5])
    assert all({"model.model_type=pretrain", "run.expected=null"} <= set(options[name]) for name in RETRIEVAL)
    assert all("run.references=" not in option for one in options.values() for option in one)
    nocaps = options["nocaps_opt2.7b"]
    assert {"model.load_finetuned=false", "model.model_type=pretrain_opt2.7b", "run.expected=null"} <= set(nocaps)
    loaded = [checkpoint_loaded(name, options[name]) for name in names]
    assert loaded == ["x.pth"] * 5 + ["stage1.pth"] * 2
    table = done.stdout.splitlines()[-10:]
    both_ways = [name for name in RETRIEVAL for _ in ("text", "image")]
    assert [line.split(":")[0].split(",")[0] for line in table[1:]] == [*names[:5], *both_ways]
    rows = {line.split("  ")[0]: line.split() for line in table}
    assert rows["gqa_opt2.7b, val: accuracy"][-3:-1] == ["50.0", "34.6"] and "119.7" not in done.stdout
    assert (
        "60.0" in rows["retrieval_coco: text R@1 (ITM)"] and "85.4" not in done.stdout
    )  # that is of a fine-tuned model


def test_nocaps_has_references_of_its_own(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAVIS_MAFA_NOCAPS", "nocaps.json")
    machine.run("eval_zeroshot", "x.pth", "opt2.7b")
    having = [yaml for _, yaml, options in machine.noted() if "run.references=nocaps.json" in options]
    assert having == ["nocaps_opt2.7b"]


def test_published_captions_are_those_of_the_fine_tuned_model(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LAVIS_MAFA_DATA", str(machine.folder))
    machine.run("eval_caption", "published", "coco_ft_opt2.7b")
    ((_, yaml, options),) = machine.noted()
    assert str(checkpoint_loaded(yaml, options)).endswith("blip2_caption_opt2.7b.pth")


def test_without_a_stage_1_no_retrieval_and_that_is_reported(machine: Machine) -> None:
    done = machine.run("eval_zeroshot", "x.pth", "flant5xl")
    assert "retrieval is skipped: it evaluates stage 1" in done.stderr
    assert [yaml for _, yaml, _ in machine.noted()][-1] == "nocaps_flant5xl"
    assert "usage: " in machine.run("eval_zeroshot").stderr


def test_published_weights_are_published_for_all(machine: Machine) -> None:
    done = machine.run("eval_zeroshot", "published", "opt2.7b")
    assert len(machine.noted()) == 7 and "119.7" in done.stdout
    options = [option for *_, options in machine.noted() for option in options]
    assert not any(key in option for key in ("pretrained=", "finetuned=") for option in options)
