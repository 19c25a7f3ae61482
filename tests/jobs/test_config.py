"""What a config may hold, and the errors of wrong ones; nothing is trained here."""

from __future__ import annotations

import re
from argparse import Namespace
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

import lavis_mafa
from lavis_mafa.common.config_file import plain_config
from lavis_mafa.common.run_schema import MineRun, Schema, TrainRun

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "lavis_mafa"
SCENES = ROOT / "projects" / "mafa" / "blip2" / "pretrain_stage1_scenes.yaml"


@pytest.fixture(scope="module", autouse=True)
def registered() -> None:
    lavis_mafa.register()


def load(*options: str, path: Path = SCENES, schema: Schema = TrainRun) -> Any:
    from lavis_mafa.config.load import load_config

    return load_config(Namespace(cfg_path=str(path), options=list(options)), schema).config


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
        ("model.queue_size=64", "model.image_size"),
        ("datasets.scenes.vis_processor.train.vit_model=x", "datasets.scenes.vis_processor.train.std"),
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
        ("model.mafa.action=link", r"model\.mafa: action is 'link'; it must be connect or drop or keep"),
        ("model.model_type=large", r"model\.model_type is 'large': mafa_blip2 has pretrain, "),
        ("run.sampling=gritt", r"run\.sampling is 'gritt': allowed is grit or random"),
        ("run.quantile=1.5", r"run\.quantile is 1\.5: allowed is a number in \[0, 1\]"),
        ("run.quantile=half", r"run\.quantile is 'half': allowed is a number in \[0, 1\]"),
        ("run.skip_nearest=-1", r"run\.skip_nearest is -1: allowed is a whole number from 0 on"),
        ("run.skip_nearest=0.1", r"run\.skip_nearest is 0\.1: allowed is a whole number from 0 on"),
        ("model.mafa.rule=relativ", r"model\.mafa: rule is 'relativ'; it must be absolute or relative"),
        ("model.mafa.own_share=1.1", r"model\.mafa: own_share is 1\.1; it must be a number in \[0, 1\]"),
        ("run.search_space=many", r"run\.search_space is 'many': allowed is a number of records from 64 on .*, or all"),
        (
            "run.search_space=63",
            r"run\.search_space is 63: allowed is a number of records from 64 on \(run\.batch_size_train",
        ),
        ("run.stop_epoch=0", r"run\.stop_epoch is 0: allowed is a whole number from 1 on, or null"),
        ("run.cache_tokens=maybe", r"run\.cache_tokens is 'maybe': allowed is true or false"),
        ("run.valid_splits=val", r"run\.valid_splits is 'val': allowed is a list of texts"),
        ("run.con_d=self", r"run\.con_d is 'self': allowed is keys with values .*, or null"),
        ("run.con_d=[self]", r"--options: a list where the YAML has keys"),
        ("run.valid_splits={val: 1}", r"--options: .* keys where it has a list"),
        ("run.expected=[R@1]", r"run\.expected is \['R@1'\]: allowed is keys with values .*, or null"),
        ("datasets.scenes=3", r"datasets\.scenes is 3: allowed is keys with values"),
        ("datasets.scenes.splits=val", r"datasets\.scenes\.splits is 'val': allowed are keys, one for every split"),
        ("run.k_test=true", r"run\.k_test is True: allowed is a whole number from 0 on"),
        ("run.match=all", r"run\.match is 'all': allowed is vqa or any"),
        ("run.weight_decay=${model.arch}", r"run\.weight_decay is 'mafa_blip2': allowed is a number from 0 on"),
        ("run.precision=fp8", r"run\.precision is 'fp8': allowed is fp32, bf16 or fp16"),
        ("run.lr_sched=cosine", r"run\.lr_sched: .*'cosine'.*linear_warmup_cosine_lr"),
        ("run.resume_ckpt_path=/no/such.pth", r"run\.resume_ckpt_path is '/no/such\.pth': allowed is null, auto"),
        ("run.device=tpu", r"run\.device is 'tpu': allowed is auto, cpu, cuda or cuda:N"),
        ("run.max_epoch=0", r"run\.max_epoch is 0: allowed is a whole number from 1 on"),
        ("run.num_workers=1.5", r"run\.num_workers is 1\.5: allowed is a whole number from 0 on"),
        ("run.init_lr=-1e-4", r"run\.init_lr is .*: allowed is a number from 0 on"),
        ("run.init_lr=nan", r"run\.init_lr is nan: allowed"),
        ("run.beta2=1.0", r"run\.beta2 is 1\.0: allowed is a number between 0 and 1"),
        ("run.task=mafa_pretrian", r"run\.task: .*did you mean mafa_pretrain\?"),
        ("datasets.image_text.on_bad_image=skip", r"on_bad_image is 'skip': allowed is raise or replace"),
        ("run.con_d={arch: [", r"--options: .* cannot be read"),
        ("run.max_epoch", r"--options takes key=value"),
    ],
)
def test_a_wrong_value_is_reported_with_what_is_allowed(
    option: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match=message):
        load(option)


@pytest.mark.parametrize("text", ["run: [", "just words", "- a\n- b\n", "", "\x00\x01", "a: 1\n"])
def test_a_file_that_is_no_config(tmp_path: Path, text: str) -> None:
    path = tmp_path / "broken.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"--cfg-path: .*broken\.yaml is not"):
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
    from lavis_mafa.mining_job.config import load_mining

    monkeypatch.syspath_prepend(str(PAPER))
    import photographs  # noqa: F401  registers the paper's data set

    monkeypatch.setenv("LAVIS_MAFA_DATA", str(tmp_path))
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)  # a full-size run may ask for a GPU and fp16
    load = load_mining if path.parent.name == "mine" else load_config
    config = OmegaConf.to_container(load(Namespace(cfg_path=str(path), options=[])).config, resolve=True)
    judged_by_captions = path.stem in ("mine_flickr8k", "mine_scenes_captions", "mine_captions")  # they have no model
    assert config["run"]["con_d"] if judged_by_captions else config["model"]["arch"].startswith("mafa_")


def test_the_schema_holds_every_key_that_is_read_with_its_meaning() -> None:
    from lavis_mafa.common.run_schema import MineRun, TrainRun

    keys = {one.name: one.metadata["meaning"] for schema in (TrainRun, MineRun) for one in fields(schema)}
    read = {
        key
        for path in PACKAGE.rglob("*.py")
        for key in re.findall(
            r"""(?:run_cfg|(?:self|run)\.settings)(?:\.get\(["']|\.(?!get\b|pop\b|rule\b))(\w+)""",
            path.read_text(encoding="utf-8"),
        )
        if path.parent.name in ("runners", "tasks") or "run_cfg" in path.read_text(encoding="utf-8")
    }
    assert {"sampling", "con_d"} <= read <= set(keys)
    assert all(keys.values())


def test_what_a_key_takes_is_named_as_people_say_it() -> None:
    from lavis_mafa.common.run_schema import MineRun, TrainRun
    from lavis_mafa.common.schema import allowed_values

    named = {name: allowed_values(TrainRun, name) for name in ("init_lr", "beta2", "sampling", "expected", "prompt")}
    assert named == {
        "init_lr": "a number from 0 on",
        "beta2": "a number between 0 and 1",
        "sampling": "grit or random",
        "expected": "keys with values ({key: value, …}), or null",
        "prompt": "text, or null",
    }
    assert allowed_values(MineRun, "relative_margin") == "a number in [0, 1], or null"


@pytest.mark.parametrize("rate", ["1e-4", "0.0001", "1E-4"])
def test_a_rate_is_a_number_however_yaml_reads_it(rate: str, tmp_path: Path) -> None:
    """YAML 1.1 takes 1e-4 for text."""
    path = tmp_path / "x.yaml"
    path.write_text(SCENES.read_text().replace("  init_lr: 1e-3", f"  init_lr: '{rate}'"))
    assert load(path=path).run.init_lr == load(f"run.init_lr={rate}").run.init_lr == 1e-4


@pytest.mark.parametrize("name", ["x/run #1", "2024", "2024_01", "a: b", "[a]", "{a}", "1e3", "yes", "- a", "&a", "*"])
def test_a_text_of_an_option_is_taken_as_it_stands(name: str) -> None:
    run = load(f"run.output_dir={name}", f"run.token_folder={name}").run
    assert (run.output_dir, run.token_folder) == (name, name)


@pytest.mark.parametrize("text", ["x/run #1", "a: b", "Question: {} Answer:", "&a"])
def test_so_is_one_of_a_key_without_a_type(text: str) -> None:
    assert load(f"model.vit_weights={text}").model.vit_weights == text


def test_quotes_lists_and_keys_of_an_option_are_yaml() -> None:
    run = load("run.token_folder='a: {}'", "run.valid_splits=[val, test]", "run.con_d={arch: self}").run
    assert (run.token_folder, run.valid_splits, run.con_d) == ("a: {}", ["val", "test"], {"arch": "self"})


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("2024_01", "must be text, but YAML reads it as 202401: put it in quotes"),
        ("yes", "must be text, but YAML reads it as True"),
        ("null", "is None: allowed is text"),
        ("[a]", r"is \['a'\]: allowed is text"),
    ],
)
def test_an_output_folder_that_yaml_reads_as_something_else(line: str, named: str, tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(re.sub(r"(?m)^  output_dir: .*$", f"  output_dir: {line}", SCENES.read_text()))
    with pytest.raises(ValueError, match=rf"run\.output_dir {named}"):
        load(path=path)


def test_a_folder_that_cannot_be_made_is_refused_before_anything_is_built(tmp_path: Path) -> None:
    from lavis_mafa.config.output import output_folder

    (tmp_path / "file").touch()
    for option in ("run.output_dir=null", "run.output_dir=", f"run.output_dir={tmp_path}/file/x"):
        with pytest.raises(ValueError, match=r"run\.output_dir is .*: allowed is (a folder|text)"):
            load(option)
    refused = pytest.raises(ValueError, match=r"run\.output_dir: /proc/x cannot be written to")
    with refused, output_folder(load("run.output_dir=/proc/x").run, "train"):
        pass
    with output_folder(load(f"run.output_dir={tmp_path}/run #1").run, "train"):
        pass
    assert (tmp_path / "run #1").is_dir()


def test_the_home_folder_is_expanded_in_every_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    path = tmp_path / "x.yaml"
    path.write_text(
        "model: {arch: mafa_blip2, model_type: small, vit_weights: ~/w.pth, vocab: ~/v, pretrained: ~/p.pth}\n"
        "run: {output_dir: ~/out, token_folder: ~/t, con_d: {arch: file, path: ~/c.parquet}, judged_pairs: ~/r.json}\n"
        "datasets: {image_text: {images: ~/images, annotations: {train: [~/a.json, ~/b.json], test: ~/c.json}}}\n"
    )
    config: Any = OmegaConf.to_container(load(path=path))
    data = config["datasets"]["image_text"]
    found = [
        *(config["model"][name] for name in ("vit_weights", "vocab", "pretrained")),
        *(config["run"][name] for name in ("output_dir", "token_folder", "judged_pairs")),
        config["run"]["con_d"]["path"],
        *(data["images"], *data["annotations"]["train"], data["annotations"]["test"]),
    ]
    names = ["w.pth", "v", "p.pth", "out", "t", "r.json", "c.parquet", "images", "a.json", "b.json", "c.json"]
    assert found == [str(tmp_path / name) for name in names]


@pytest.mark.parametrize("nothing", ["null", "", "[]"])
def test_a_split_is_dropped(nothing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lavis_mafa.config.values import missing_files

    monkeypatch.setenv("LAVIS_MAFA_DATA", str(tmp_path))
    flickr8k = ROOT / "projects" / "mafa" / "blip2" / "pretrain_stage1_flickr8k.yaml"
    config = load(f"datasets.image_text.annotations.val={nothing}", path=flickr8k)
    assert set(config.datasets.image_text.annotations) == {"train", "test"}
    assert config.run.valid_splits == [] and config.run.test_splits == ["test"]
    assert not [line for line in missing_files(config) if "val" in line]
    assert set(load(f"datasets.scenes.splits.val={nothing}").datasets.scenes.splits) == {"train", "test"}
    coco = ROOT / "projects" / "mafa" / "albef" / "finetune_retrieval_coco.yaml"
    config = load(f"datasets.coco_retrieval.build_info.annotations.val={nothing}", "run.device=cpu", path=coco)
    assert set(config.datasets.coco_retrieval.build_info.annotations) == {"train", "test"}


def test_the_configs_of_own_images_name_no_other_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LAVIS_MAFA_DATA", raising=False)
    own = "datasets.image_text.annotations.train=mine.json"
    for file in (*(ROOT / "projects" / "mafa").rglob("*_images.yaml"),):
        assert "flickr" not in file.read_text().lower()
        schema = MineRun if file.parent.name == "mine" else TrainRun
        config = load(own, path=file, schema=schema)
        assert config.datasets.image_text.annotations == {"train": "mine.json"}
        if schema is TrainRun:
            assert config.run.valid_splits == config.run.test_splits == []
        assert "images" in str(plain_config(config))  # every ${…} resolves


GQA = ROOT / "projects" / "mafa" / "eval" / "gqa_scenes.yaml"


@pytest.mark.parametrize("prompt", ["Question: {} Answer:", "Question: {question} Answer:"])
def test_a_question_is_asked_by_either_placeholder(prompt: str) -> None:
    run = load(f"run.prompt={prompt}", path=GQA).run
    assert run.prompt.format("who?") == "Question: who? Answer:"
    assert load("run.prompt=", path=GQA).run.prompt == ""


@pytest.mark.parametrize("prompt", ["Question:", "{} and {}", "{} and {question}", "{asked}", "{0}", "a {", "a } {}"])
def test_a_prompt_that_does_not_ask_the_question_is_refused(prompt: str) -> None:
    with pytest.raises(ValueError, match=r"run\.prompt is .*: allowed is text with one \{\} or \{question\}"):
        load(f"run.prompt={prompt}", path=GQA)


VQA = ROOT / "projects" / "mafa" / "albef" / "vqa_scenes.yaml"


@pytest.mark.parametrize(
    ("path", "option", "readers"),
    [
        (VQA, "run.prompt=Question: {} Answer:", "mafa_vqa and mafa_captioning"),
        (VQA, "run.num_beams=3", "mafa_vqa and mafa_captioning"),
        (GQA, "run.num_ans_candidates=7", "mafa_albef_vqa"),
        (GQA, "run.references=a.json", "mafa_captioning"),
        (SCENES, "run.match=any", "mafa_vqa and mafa_albef_vqa"),
    ],
)
def test_a_key_that_the_task_does_not_read_is_refused(path: Path, option: str, readers: str) -> None:
    with pytest.raises(
        ValueError, match=rf"{option.partition('=')[0]} is .*, which is read by {readers} alone; run\.task is"
    ):
        load(option, path=path)
    default = load(path=path).run[option.partition("=")[0][4:]]
    load(f"{option.partition('=')[0]}={'null' if default is None else default}", path=path)


def test_the_prompt_of_a_caption_is_text(tmp_path: Path) -> None:
    path = ROOT / "projects" / "mafa" / "eval" / "caption_scenes.yaml"
    assert load("run.prompt=a photo of {it}", path=path).run.prompt == "a photo of {it}"


def test_weights_that_are_named_are_loaded_or_refused() -> None:
    stage1 = ROOT / "projects" / "mafa" / "blip2" / "pretrain_stage1.yaml"  # load_pretrained: false
    model = load("model.pretrained=a.pth").model
    assert (model.load_pretrained, model.load_finetuned, model.pretrained) == (True, False, "a.pth")
    with pytest.raises(ValueError, match=r"model\.pretrained is a\.pth, .*: set model\.load_pretrained: true"):
        load("model.pretrained=a.pth", path=stage1)
    assert load("model.pretrained=a.pth", "model.load_pretrained=true", path=stage1).model.load_pretrained
    assert not load("model.pretrained=", path=stage1).model.load_pretrained
