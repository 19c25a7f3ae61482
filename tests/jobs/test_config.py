"""What a config may hold, and the errors of wrong ones; nothing is trained here."""

from __future__ import annotations

import re
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

import lavis_mafa

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "lavis_mafa"
SCENES = ROOT / "projects" / "mafa" / "blip2" / "pretrain_stage1_scenes.yaml"


@pytest.fixture(scope="module", autouse=True)
def registered() -> None:
    lavis_mafa.register()


def load(*options: str, path: Path = SCENES) -> Any:
    from lavis_mafa.config.load import load_config

    return load_config(Namespace(cfg_path=str(path), options=list(options))).config


@pytest.mark.parametrize(
    ("option", "named"),
    [
        ("modle.arch=x", "model"),
        ("run.max_epock=2", "run.max_epoch"),
        ("model.vit_modle=x", "model.vit_model"),
        ("model.mafa.lo=0.1", "'low"),
        ("model.qformer.hiden_size=3", "model.qformer.hidden_size"),
        ("run.con_d.vocabb=x", "run.con_d.vocab"),
        ("run.con_d={arch: self, archh: x}", "run.con_d.arch"),
        ("run.skip_nearst=8", "run.skip_nearest"),
        ("datasets.scene.seed=1", "scenes"),
        ("datasets.scenes.split.train.n=3", "datasets.scenes.splits"),
        ("datasets.scenes.splits.train.seeed=3", "datasets.scenes.splits.train.seed"),
        ("datasets.scenes.vis_processor.trian.image_size=8", "datasets.scenes.vis_processor.train"),
        ("datasets.scenes.vis_processor.train.imagesize=8", "datasets.scenes.vis_processor.train.image_size"),
        ("datasets.scenes.text_processor.train.name=blip_captoin", "blip_caption"),
        ("datasets.image_text.columns.image=a", "datasets.image_text.columns.image_key"),
        ("model.arch=mafa_blip", "mafa_blip2"),
    ],
)
def test_an_unknown_name_is_reported_with_the_closest_valid_one(option: str, named: str) -> None:
    with pytest.raises(ValueError, match=rf"did you mean {re.escape(named)}\b"):
        load(option)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("model.mafa.low=0.9", r"model\.mafa: low \(0\.9\) is above high \(0\.8\)"),
        ("model.mafa.action=link", r"model\.mafa: action is 'link': allowed is connect or drop or keep"),
        ("model.model_type=large", r"model\.model_type is 'large': mafa_blip2 has pretrain, "),
        ("run.sampling=gritt", r"run\.sampling is 'gritt': allowed is grit or random"),
        ("run.quantile=1.5", r"run\.quantile is 1\.5: allowed is a number in \[0, 1\]"),
        ("run.quantile=half", r"run\.quantile is 'half': allowed is a number in \[0, 1\]"),
        ("run.skip_nearest=-1", r"run\.skip_nearest is -1: allowed is a whole number from 0 on"),
        ("run.skip_nearest=0.1", r"run\.skip_nearest is 0\.1: allowed is a whole number from 0 on"),
        ("model.mafa.rule=relativ", r"model\.mafa: rule is 'relativ': allowed is absolute or relative"),
        ("model.mafa.own_share=1.1", r"model\.mafa: own_share is 1\.1: allowed is a number in \[0, 1\]"),
        ("run.search_space=many", r"run\.search_space is 'many': allowed is a number of records from 1 on, or all"),
        ("run.precision=fp8", r"run\.precision is 'fp8': allowed are fp32, bf16, fp16"),
        ("run.lr_sched=cosine", r"run\.lr_sched: .*'cosine'.*linear_warmup_cosine_lr"),
        ("run.resume_ckpt_path=/no/such.pth", r"run\.resume_ckpt_path is '/no/such\.pth': allowed is null, auto"),
        ("run.device=tpu", r"run\.device is 'tpu': allowed is auto, cpu or cuda"),
        ("run.max_epoch=0", r"run\.max_epoch is 0: allowed is a whole number from 1 on"),
        ("run.num_workers=1.5", r"run\.num_workers is 1\.5: allowed is a whole number from 0 on"),
        ("run.init_lr=-1e-4", r"run\.init_lr is .*: allowed is a number from 0 on"),
        ("run.init_lr=nan", r"run\.init_lr is 'nan': allowed"),
        ("run.beta2=1.0", r"run\.beta2 is 1\.0: allowed is a number between 0 and 1"),
        ("run.task=mafa_pretrian", r"run\.task: .*did you mean mafa_pretrain\?"),
        ("datasets.image_text.on_bad_image=skip", r"on_bad_image is 'skip': allowed is raise or replace"),
        ("run.con_d={arch: [", r"--options: .* cannot be read"),
        ("run.max_epoch", r"--options takes key=value"),
    ],
)
def test_a_wrong_value_is_reported_with_what_is_allowed(option: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load(option)


@pytest.mark.parametrize("text", ["run: [", "just words", "- a\n- b\n", "", "\x00\x01", "a: 1\n"])
def test_a_file_that_is_no_config(tmp_path: Path, text: str) -> None:
    path = tmp_path / "broken.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"--cfg-path: .*broken\.yaml is no"):
        load(path=path)


def test_a_section_that_is_missing_or_empty(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    for text in ("run: {}\ndatasets: {}\n", "run: {}\ndatasets: {}\nmodel:\n"):
        path.write_text(text)
        with pytest.raises(ValueError, match="no section 'model'"):
            load(path=path)


def test_a_data_set_without_settings_takes_the_packaged_ones(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text("model: {arch: mafa_blip2, model_type: scenes}\nrun: {}\ndatasets:\n  scenes:\n")
    assert load(path=path).datasets.scenes.splits.train.n == 8000


def test_an_unset_environment_variable_is_reported_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LAVIS_MAFA_DATA", raising=False)
    with pytest.raises(ValueError, match=r"LAVIS_MAFA_DATA, which is not set .*export LAVIS_MAFA_DATA="):
        load(path=ROOT / "projects" / "mafa" / "blip2" / "pretrain_stage1_flickr8k.yaml")


def test_an_option_chooses_the_model_type() -> None:
    model = load("model.model_type=small").model
    assert model.vit_model == "torchvision:mobilenet_v2"


def test_another_con_d_chosen_by_an_option_brings_its_own_keys() -> None:
    """The YAML names a mafa_blip2 with its model_type, which a file of verdicts has not."""
    assert load("run.con_d={arch: file, path: some.parquet}").run.con_d == {"arch": "file", "path": "some.parquet"}
    assert load("run.con_d={arch: self}").run.con_d == {"arch": "self"}
    assert load("run.con_d.load_finetuned=false").run.con_d.model_type == "scenes_con_d"


def test_missing_files_are_named_with_their_keys(tmp_path: Path) -> None:
    from lavis_mafa.config.values import missing_files, refuse_missing

    assert missing_files(load("run.con_d=null")) == []
    options = (f"model.vit_weights={tmp_path}/tower.pth", f"run.con_d.finetuned={tmp_path}/con_d.pth")
    config = load(*options)
    assert [line.split(":")[0] for line in missing_files(config)] == ["model.vit_weights", "run.con_d.finetuned"]
    with pytest.raises(ValueError, match=r"files are missing:\n  model\.vit_weights"):
        refuse_missing(config)
    (tmp_path / "tower.pth").touch()
    for choice in ("model.mafa.action=keep", "model.mafa.rule=relative"):  # then no Con-D is asked
        assert missing_files(load(*options, choice)) == []
    assert missing_files(load(options[0], "run.con_d={arch: self}")) == []


def test_data_that_does_not_fit_the_config() -> None:
    from lavis_mafa.config.values import check_data

    datasets = {"scenes": {"train": range(50), "val": range(5), "test": range(5)}}
    check_data(load("run.batch_size_train=50"), datasets)
    with pytest.raises(ValueError, match=r"run\.batch_size_train is 51: allowed is at most 50"):
        check_data(load("run.batch_size_train=51"), datasets)
    with pytest.raises(ValueError, match=r"at most 25 on each of 2 ranks"):
        check_data(load("run.batch_size_train=26", "run.world_size=2"), datasets)
    with pytest.raises(
        ValueError, match=r"run\.valid_splits is 'dev': allowed is a split of datasets\.scenes: train, val, test"
    ):
        check_data(load("run.valid_splits=[dev]"), datasets)


def test_keys_of_lavis_own_tasks_and_models_stay_usable(caplog: pytest.LogCaptureFixture) -> None:
    config = load(
        "run.task=retrieval", "run.log_freq=3", "model.arch=blip2", "model.model_type=pretrain", "model.own=1"
    )
    assert (config.run.log_freq, config.run.runner, config.model.own) == (3, "runner_base", 1)
    assert "run.log_freq" in caplog.text and "model.own" in caplog.text


PAPER = ROOT / "projects" / "mafa" / "paper"
RUN_FILES = {*(ROOT / "projects" / "mafa").rglob("*.yaml")} - {PAPER / "photographs.yaml"}  # defaults of a data set


@pytest.mark.parametrize("path", sorted(RUN_FILES), ids=lambda path: path.stem)
def test_every_yaml_of_the_project_resolves(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lavis_mafa.config.load import load_config

    monkeypatch.syspath_prepend(str(PAPER))
    import photographs  # noqa: F401  registers the paper's data set

    monkeypatch.setenv("LAVIS_MAFA_DATA", str(tmp_path))
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)  # a full-size run may ask for a GPU and fp16
    defaults = "mine.yaml" if "mine" in path.parent.name else "run.yaml"
    config = load_config(Namespace(cfg_path=str(path), options=[]), defaults).config
    assert OmegaConf.to_container(config, resolve=True)["model"]["arch"].startswith("mafa_")


def test_run_yaml_holds_every_key_that_is_read() -> None:
    defaults = {key for name in ("run", "mine") for key in OmegaConf.load(PACKAGE / "configs" / f"{name}.yaml").run}
    read = {
        key
        for path in PACKAGE.rglob("*.py")
        for key in re.findall(r"""run_cfg(?:\.get\(["']|\.(?!get\b|pop\b))(\w+)""", path.read_text(encoding="utf-8"))
    }
    assert {"sampling", "search_space", "con_d"} <= read <= defaults


def test_model_keys_hold_every_key_that_models_read() -> None:
    from lavis_mafa.config.keys import MODEL_KEYS

    packaged = {key for path in (PACKAGE / "configs" / "models").glob("*.yaml") for key in OmegaConf.load(path).model}
    source = "".join(path.read_text(encoding="utf-8") for path in (PACKAGE / "models").glob("*.py"))
    read = set(re.findall(r"""\b(?:cfg|plain)(?:\.get\(|\[)["'](\w+)""", source))
    assert {"vit_weights", "mafa"} <= read <= packaged | set(MODEL_KEYS)
