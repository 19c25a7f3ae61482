"""A config of somebody else: what `${…}` in it reads, where it writes, what it costs to read it."""

import json
import time
from argparse import Namespace
from pathlib import Path

import pytest
from omegaconf import DictConfig, OmegaConf

import lavis_mafa
from lavis_mafa.common.config_file import read_config_file
from lavis_mafa.common.formats import header
from lavis_mafa.common.references import check_references
from lavis_mafa.common.run_schema import MineRun
from lavis_mafa.config.load import load_config
from lavis_mafa.mining_job.config import load_mining
from tests.jobs.commands import ROOT

SECRET = "hf_secret"


def written(folder: Path, text: str) -> Path:
    path = folder / "run.yaml"
    path.write_text(f"run: {{name: 'a', seed: 1}}\nmodel:\n  arch: mafa_blip2\n{text}")
    return path


@pytest.mark.parametrize(
    "text",
    [
        "${oc.env:HF_TOKEN}",
        "https://host/x.pth?t=${oc.env:HF_TOKEN}",
        "${oc.env:HF_TOKEN,none}",
        "${ oc.env : HF_TOKEN }",
        "${oc.env:LAVIS_MAFA_DATA${run.name}}",
        "${oc.env:${run.name}}",
        "${oc.env:LAVIS_MAFA_DATA,${oc.env:HF_TOKEN}}",
        "${oc.env:'LAVIS_MAFA_DATA',x}${oc.env:HF_TOKEN}",
        "${oc.decode:'${oc.env:HF_TOKEN}'}",
        "${oc.decode:${run.name}}",
        "${oc.create:${run.name}}",
        "${oc.select:run.name}",
        "${plugin:x}",
        r"\${oc.env:HF_TOKEN}",
    ],
)
@pytest.mark.parametrize("place", ["key", "list", "option"])
def test_a_config_reads_no_variable_but_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, place: str
) -> None:
    monkeypatch.setenv("HF_TOKEN", SECRET)
    value = json.dumps([text] if place == "list" else text)
    path = written(tmp_path, "" if place == "option" else f"  pretrained: {value}\n")
    key = r"model\.pretrained" + (r"\[0\]" if place == "list" else "")
    with pytest.raises(ValueError, match=rf"{key} is .* may name another key") as error:
        read_config_file(path, [f"model.pretrained={text}"] if place == "option" else [])
    assert SECRET not in str(error.value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("${oc.env:LAVIS_MAFA_DATA}/a", "/data/a"),
        ("${oc.env:LAVIS_MAFA_CACHE,/else}/a", "/else/a"),
        ("${oc.env:LAVIS_MAFA_CACHE,${run.name}}/a", "a/a"),
        ("${run.name}", "a"),
        ("x ${.arch} ${..run.seed}", "x mafa_blip2 1"),
        ("costs $5 {a}", "costs $5 {a}"),
    ],
)
def test_other_keys_and_our_variables_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, value: str
) -> None:
    monkeypatch.setenv("LAVIS_MAFA_DATA", "/data")
    monkeypatch.delenv("LAVIS_MAFA_CACHE", raising=False)
    given = read_config_file(written(tmp_path, f"  pretrained: {json.dumps(text)}\n"), [])
    assert given.model.pretrained == value
    assert OmegaConf.to_container(given)["model"]["pretrained"] == text


CAPTIONS = """
datasets: {scenes: {splits: {train: {n: 40}}}}
run: {con_d: {arch: captions, encoder: e}, retrievers: [judge]}
"""


@pytest.mark.parametrize("smoke", [False, True])
@pytest.mark.parametrize("job", ["training", "mining", "mining without LAVIS"])
def test_the_config_is_kept_as_it_was_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, job: str, smoke: bool
) -> None:
    lavis_mafa.register()
    monkeypatch.setenv("LAVIS_MAFA_DATA", "/data")
    (tmp_path / "captions.yaml").write_text(CAPTIONS)
    path, load = {
        "training": (ROOT / "projects/mafa/blip2/pretrain_stage1_scenes.yaml", load_config),
        "mining": (ROOT / "projects/mafa/mine/mine_scenes.yaml", lambda arguments: load_config(arguments, MineRun)),
        "mining without LAVIS": (tmp_path / "captions.yaml", load_mining),
    }[job]
    text = "${oc.env:LAVIS_MAFA_DATA}/out"
    options = [f"run.output_dir={text}", "datasets.scenes.splits.train.seed=${.n}"]
    cfg = load(Namespace(cfg_path=str(path), options=options, smoke=tmp_path if smoke else None))
    kept = OmegaConf.to_container(cfg.config)
    assert kept["run"]["output_dir"] == text and cfg.config.run.output_dir == "/data/out"
    assert kept["datasets"]["scenes"]["splits"]["train"]["seed"] == "${.n}"


def test_what_the_check_lets_pass_is_all_that_is_resolved(monkeypatch: pytest.MonkeyPatch) -> None:
    check_references({"a": {"b": ["${run.name}", 3, None]}}, "x.yaml")
    with pytest.raises(ValueError, match=r"x\.yaml: a\.b\[1\]\.c is"):
        check_references({"a": {"b": ["${run.name}", {"c": "${oc.env:HOME}"}]}}, "x.yaml")


def test_a_yaml_of_aliases_is_refused_in_no_time(tmp_path: Path) -> None:
    levels = "".join(f"  a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 12))
    path = written(tmp_path, f"  a0: &a0 x\n{levels}")
    start = time.monotonic()
    with pytest.raises(ValueError, match=r"run\.yaml is not YAML: .*alias"):
        read_config_file(path, [])
    assert time.monotonic() - start < 10


@pytest.mark.parametrize("text", ["  a: " + "[" * 3000 + "]" * 3000, "  a: " + "{b: " * 3000 + "1" + "}" * 3000])
def test_a_yaml_that_nests_deeply_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(ValueError, match=r"(?s)run\.yaml is not YAML: .*nest(s|ing)"):
        read_config_file(written(tmp_path, text + "\n"), [])


@pytest.mark.parametrize("place", ["file", "option"])
def test_a_reference_that_does_not_end_is_named(tmp_path: Path, place: str) -> None:
    path = written(tmp_path, "  pretrained: '${unfinished'\n" if place == "file" else "")
    with pytest.raises(ValueError, match=r"model\.pretrained cannot be read"):
        read_config_file(path, ["model.pretrained=${unfinished"] if place == "option" else [])


def test_a_yaml_runs_no_code(tmp_path: Path) -> None:
    left = tmp_path / "left"
    with pytest.raises(ValueError, match="is not YAML"):
        read_config_file(written(tmp_path, f"  a: !!python/object/apply:os.mkdir ['{left}']\n"), [])
    assert not left.exists()


@pytest.mark.parametrize("place", ["/{outside}/a.json", "../a.json", "link/a.json"])
@pytest.mark.parametrize("local", [False, True])
def test_lavis_writes_no_annotation_outside_its_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, local: bool
) -> None:
    lavis_mafa.register()
    from lavis.common.registry import registry

    from lavis_mafa.config.values import check_downloads

    cache, outside = tmp_path / "cache", tmp_path / "outside"
    for folder in (cache, outside):
        folder.mkdir()
    (cache / "link").symlink_to(outside)
    (tmp_path / "here.json").write_text("[]")
    monkeypatch.setitem(registry.mapping["paths"], "cache_root", str(cache))

    def config(storage: str) -> DictConfig:
        url = str(tmp_path / "here.json") if local else "https://host/a.json"
        train = {"url": [url], "storage": [storage]}
        return OmegaConf.create({"datasets": {"coco_caption": {"build_info": {"annotations": {"train": train}}}}})

    with pytest.raises(ValueError, match=r"annotations\.train\.storage is .*below the cache"):
        check_downloads(config(place.format(outside=str(outside).lstrip("/"))))
    check_downloads(config("coco/a.json"))
    check_downloads(config(str(cache / "a.json")))
    check_downloads(config(str(tmp_path / "here.json")))  # what is there is read, not written


def test_a_model_of_somebody_else_reads_no_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", SECRET)
    model = {"arch": "mafa_blip2", "vocab": "${oc.env:HF_TOKEN}"}
    (tmp_path / "config.yaml").write_text(OmegaConf.to_yaml({**header("model"), "model": model, "preprocess": {}}))
    with pytest.raises(ValueError, match=r"config\.yaml: model\.vocab is .* may name another key") as error:
        lavis_mafa.load(tmp_path)
    assert SECRET not in str(error.value)
