"""The full-size YAMLs: they resolve, and their data sets, here with a handful of pictures, become one record table."""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path
from typing import Any

import lavis_mafa.compat

import lavis
import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image
from torch.utils.data import DataLoader

import lavis_mafa

FOLDER = Path(__file__).resolve().parents[2] / "projects" / "mafa" / "blip2"
FULL = {  # name → model type, B, M, data sets
    "pretrain_stage1": ("pretrain", 96, 4800, 2),
    "pretrain_stage1_vitL": ("pretrain_vitL", 128, 1920, 2),
    "pretrain_stage1_4m": ("pretrain", 96, 4800, 4),
    "pretrain_stage1_4m_clean": ("pretrain", 96, 4800, 4),
}
STAGE_2 = {  # name → arch
    "pretrain_stage2_opt2.7b": "mafa_blip2_opt",
    "pretrain_stage2_opt6.7b": "mafa_blip2_opt",
    "pretrain_stage2_flant5xl": "mafa_blip2_t5",
    "pretrain_stage2_flant5xxl": "mafa_blip2_t5",
}
SCHEDULE = (
    *("init_lr", "min_lr", "warmup_lr", "warmup_steps", "weight_decay"),
    *("max_epoch", "batch_size_train", "batch_size_eval"),
)
ANNOTATIONS = {  # below LAVIS' cache
    "coco/annotations/coco_karpathy_train.json": [
        {"image": "a.jpg", "image_id": "coco_1", "caption": "a dog"},
        {"image": "b.jpg", "image_id": "coco_2", "caption": "a cat"},
        {"image": "a.jpg", "image_id": "coco_1", "caption": "a brown dog"},
    ],
    "coco/annotations/coco_karpathy_val.json": [{"image": "b.jpg", "image_id": "coco_2", "caption": ["a cat"]}],
    "coco/annotations/coco_karpathy_test.json": [{"image": "b.jpg", "image_id": "coco_2", "caption": ["a cat"]}],
    "vg/annotations/vg_caption.json": [
        {"image": "a.jpg", "image_id": 1, "caption": "a dog"},
        {"image": "c.jpg", "image_id": 2, "caption": "the sky"},
    ],
    "conceptual_caption/annotations/cc3m.json": [{"image": "d.jpg", "caption": "art"}],
    "sbu_captions/annotations/sbu.json": [{"image": "d.jpg", "caption": "my garden"}],
}
IMAGES = {"coco": "ab", "vg": "ac", "conceptual_caption": "d", "sbu_captions": "d"}


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """LAVIS' cache with tiny annotations, so that nothing is fetched; every picture is of one grey."""
    lavis_mafa.register()
    from lavis.common.registry import registry

    for name, rows in ANNOTATIONS.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(json.dumps(rows))
    for number, (name, letters) in enumerate(IMAGES.items()):
        (tmp_path / name / "images").mkdir()
        for letter in letters:
            grey = 40 * number + ord(letter) - 60
            Image.new("RGB", (32, 32), (grey,) * 3).save(tmp_path / name / "images" / f"{letter}.jpg")
    monkeypatch.setitem(registry.mapping["paths"], "cache_root", str(tmp_path))
    monkeypatch.setenv("LAVIS_MAFA_DATA", str(tmp_path))
    return tmp_path


def load(name: str, *options: str) -> Any:
    from lavis_mafa.config.load import load_config

    return load_config(Namespace(cfg_path=str(FOLDER / f"{name}.yaml"), options=["run.device=cpu", *options]))


def build(config: Any) -> Any:
    from lavis.common.registry import registry

    return registry.get_task_class(config.run_cfg.task).setup_task(config).build_datasets(config)


@pytest.mark.parametrize("name", FULL)
def test_it_states_the_settings_it_follows(name: str, cache: Path) -> None:
    config = load(name).config
    model_type, batch_size, search_space, datasets = FULL[name]
    assert (config.model.arch, config.model.model_type, config.model.load_pretrained) == (
        "mafa_blip2",
        model_type,
        False,
    )
    assert (config.run.batch_size_train, config.run.search_space) == (batch_size, search_space)
    assert len(config.datasets) == datasets
    text = (FOLDER / f"{name}.yaml").read_text()
    assert f"B = {batch_size}, M = {search_space}" in text and "# Hardware: " in text and "Data: " in text


@pytest.mark.parametrize(("name", "arch"), STAGE_2.items())
def test_stage_2_has_lavis_schedule_and_data(name: str, arch: str, cache: Path) -> None:
    config = load(name)
    model, run = config.config.model, config.config.run
    language_model = name.removeprefix("pretrain_stage2_")
    assert (model.arch, model.model_type, model.freeze_vit) == (arch, f"pretrain_{language_model}", True)
    assert model.load_pretrained and model.pretrained.endswith("/BLIP2/blip2_pretrained.pth")  # LAVIS' stage 1
    theirs = OmegaConf.load(Path(lavis.__file__).parent / "projects" / "blip2" / "train" / "pretrain_stage2.yaml")
    assert {key: float(run[key]) for key in SCHEDULE} == {key: float(theirs.run[key]) for key in SCHEDULE}
    assert set(config.config.datasets) == set(theirs.datasets)
    ((mixed, splits),) = build(config).items()
    assert mixed == "coco_caption+vg_caption" and splits["train"].table.n_records == 5  # every caption
    text = (FOLDER / f"{name}.yaml").read_text()
    assert "# Hardware: " in text and "Data and schedule: " in text


def test_lavis_data_sets_become_one_record_table(cache: Path) -> None:
    ((name, splits),) = build(load("pretrain_stage1_4m")).items()
    assert name == "coco_caption+vg_caption+conceptual_caption_3m+sbu_caption" and list(splits) == ["train"]
    data = splits["train"]
    table = data.table
    assert data.augmented and data._bad is not None  # on_bad_image: replace
    captions = [[table.caption(row) for row in table.caption_rows(record)] for record in range(table.n_records)]
    assert captions == [["a dog", "a brown dog"], ["a cat"], ["a dog"], ["the sky"], ["art"], ["my garden"]]
    assert table.images.to_pylist() == ["a.jpg", "b.jpg", "a.jpg", "c.jpg", "d.jpg", "d.jpg"]
    assert len(set(table.image_id)) == 6 and len(set(table.text_id)) == 6  # two images share a caption
    expected = [40 * part + ord(letter) - 60 for part, letters in enumerate(IMAGES.values()) for letter in letters]
    assert [int(np.asarray(data.open_image(record)).mean().round()) for record in range(6)] == expected

    batch = next(iter(DataLoader(data, batch_size=6)))
    assert batch["image"].shape == (6, 3, 224, 224) and batch["index"].tolist() == list(range(6))
    assert torch.equal(batch["image_id"], torch.from_numpy(table.image_id))


def test_ids_do_not_depend_on_the_mixture(cache: Path) -> None:
    tables = [
        next(iter(build(load(name)).values()))["train"].table for name in ("pretrain_stage1", "pretrain_stage1_4m")
    ]
    assert tables[0].image_id.tolist() == tables[1].image_id[:4].tolist()
    assert tables[0].fingerprint != tables[1].fingerprint


def test_what_does_not_mix_is_reported(cache: Path) -> None:
    with pytest.raises(ValueError, match=r"datasets\.vg_caption\.vis_processor differs from that of coco_caption"):
        build(load("pretrain_stage1", "datasets.vg_caption.vis_processor.train.image_size=64"))
    with pytest.raises(ValueError, match=r"datasets\.scenes: PairDataset is not a LAVIS data set"):
        build(load("pretrain_stage1", "datasets.scenes.splits.train.n=2"))
    (cache / "vg/annotations/vg_caption.json").write_text('[{"image": "a.jpg"}]')
    with pytest.raises(ValueError, match=r"datasets\.vg_caption, row 0: it needs an image and a caption"):
        build(load("pretrain_stage1"))
    (cache / "vg/annotations/vg_caption.json").write_text('[{"image": "a.jpg", "caption": "x \\ud83d"}]')
    with pytest.raises(ValueError, match=r"datasets\.vg_caption, row 0: .*half a character"):
        build(load("pretrain_stage1"))


@pytest.mark.parametrize(
    ("model", "run", "size"),
    [("albef", "finetune_retrieval", 384), ("albef", "zero_shot", 384), ("blip2", "finetune_retrieval", 364)],
)
@pytest.mark.parametrize(("name", "file"), [("coco", "coco_karpathy_{}.json"), ("flickr30k", "{}.json")])
def test_retrieval_from_lavis_data_sets(model: str, run: str, size: int, name: str, file: str, cache: Path) -> None:
    for folder in ("annotations", "images"):
        (cache / name / folder).mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (32, 32)).save(cache / name / "images" / "a.jpg")
    rows = {"train": [{"image": "a.jpg", "image_id": "1", "caption": caption} for caption in ("A dog", "A cat")]}
    rows |= {split: [{"image": "a.jpg", "caption": ["Dogs", "Two dogs"]}] for split in ("val", "test")}
    for split, content in rows.items():
        (cache / name / "annotations" / file.format(split)).write_text(json.dumps(content))
    ((_, splits),) = build(load(f"../{model}/{run}_{name}")).items()
    assert len(splits["train"]) == (
        2 if (model, run) == ("albef", "finetune_retrieval") else 1
    )  # which counts captions
    assert splits["train"].table.captions.to_pylist() == ["A dog", "A cat"]
    for split in ("val", "test"):
        assert splits[split].text == ["dogs", "two dogs"] and splits[split].txt2img == {0: 0, 1: 0}
        assert splits[split][0]["image"].shape == (3, size, size)


def test_missing_data_is_named_and_nothing_is_fetched_for_it(cache: Path) -> None:
    from lavis_mafa.config.values import missing_files

    config = load("pretrain_stage1_4m_clean").config
    keys = [line.split(":")[0] for line in missing_files(config)]
    storage = "build_info.annotations.train.storage"
    assert keys == [f"datasets.conceptual_caption_3m.{storage}", f"datasets.sbu_caption.{storage}"]
    assert missing_files(load("pretrain_stage1_4m").config) == []


def test_a_torn_image_is_an_error_although_lavis_would_fill_it(cache: Path) -> None:
    from lavis_mafa.data.images import BadImageError, open_image

    path = cache / "torn.jpg"
    Image.effect_noise((64, 64), 50).save(path)
    path.write_bytes(path.read_bytes()[:900])
    with pytest.raises(BadImageError, match="torn.jpg cannot be read"):
        open_image(cache, "torn.jpg")


@pytest.mark.parametrize("name", ["caption_coco_ft_opt2.7b", "caption_coco_ft_flant5xl"])
def test_fine_tuning_for_captions_trains_on_every_caption_and_evaluates_its_split(name: str, cache: Path) -> None:
    from lavis_mafa.config.values import check_data

    config = load(f"../eval/{name}", "run.batch_size_train=1", "model.llm_precision=fp32", "run.precision=fp32")
    config.config.run.world_size = 1
    datasets = build(config)
    check_data(config.config, datasets)
    ((_, splits),) = datasets.items()
    assert splits["train"].table.n_records == 3
    assert [row["image"] for row in splits["test"].annotation] == ["b.jpg"]  # LAVIS' own, as an evaluation has it


@pytest.mark.parametrize("name", ["coco", "flickr30k"])
def test_blip2_is_fine_tuned_for_retrieval_as_lavis_does_it(name: str) -> None:
    """LAVIS' projects/blip2/train/retrieval_coco_ft.yaml, main branch; 5 epochs of five captions an image."""
    cfg = load(f"finetune_retrieval_{name}")
    run, model = cfg.run_cfg, cfg.model_cfg
    assert (model.arch, model.image_size, model.freeze_vit, model.load_finetuned) == ("mafa_blip2", 364, False, False)
    assert (run.init_lr, run.min_lr, run.warmup_lr, run.weight_decay) == (1e-5, 0, 1e-8, 0.05)
    assert (run.lr_layer_decay, run.batch_size_train, run.max_epoch, run.k_test) == (0.95, 14, 5 * 5, 128)
