"""Whatever opens an image of open_clip's CSV data opens it as data/images.py does: training, judge, guide, tokens."""

import logging
import os
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from open_clip_train import data as open_clip_data
from PIL import Image, ImageFile

import lavis_mafa
from lavis_mafa.data.images import BadImageError
from lavis_mafa.openclip_train import launcher as train
from lavis_mafa.openclip_train.images import CsvImages, Images, RowViews

from . import launch
from .tiny import register_tiny

pytestmark = pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")


def as_array(image):
    return torch.from_numpy(np.array(image))


def by_judge(path, images=None):
    return RowViews([path], as_array, torch.device("cpu"), images or CsvImages())[torch.tensor([0])]


def by_guide(path, images=None):
    return Images([path], as_array, images or CsvImages())[0]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Good and bad images below root/, which is the working folder, and one beside it; Pillow as LAVIS leaves it."""
    rng, root = np.random.default_rng(0), tmp_path / "root"
    root.mkdir()
    noise = Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8))
    noise.save(root / "whole.jpg")
    noise.save(tmp_path / "outside.png")
    content = (root / "whole.jpg").read_bytes()
    (root / "truncated.jpg").write_bytes(content[: len(content) // 2])
    Image.new("1", (8001, 8000)).save(root / "bomb.png")
    Image.new("RGBA", (32, 32), (0, 0, 0, 0)).save(root / "clear.png")
    (root / "empty.png").touch()
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    monkeypatch.chdir(root)
    return root


@pytest.fixture(autouse=True)
def quiet_logging():
    before = logging.getLogger().handlers[:]
    yield
    logging.getLogger().handlers = before


BAD = {
    "bomb.png": "refused as a decompression bomb",
    "truncated.jpg": "cannot be read",
    "empty.png": "zero bytes",
    "missing.png": "no image file",
}


@pytest.mark.parametrize("opened", [by_judge, by_guide])
@pytest.mark.parametrize("absolute", [False, True])
def test_bad_files_are_refused_by_name(folder, opened, absolute):
    for name, message in BAD.items():
        with pytest.raises(BadImageError, match=message) as error:
            opened(os.path.abspath(name) if absolute else name)
        assert str(folder / name) in str(error.value)


@pytest.mark.parametrize("opened", [by_judge, by_guide])
def test_paths_stay_below_the_folders_that_are_given(folder, opened):
    outside = folder.parent / "outside.png"
    for path in ("../outside.png", "a/../../outside.png", str(outside)):
        with pytest.raises(ValueError, match="leads outside.*by --mafa-images"):
            opened(path)
    assert opened("whole.jpg").equal(opened(str(folder / "whole.jpg")))
    both = CsvImages([str(folder), str(folder.parent)])
    assert opened(str(outside), both).equal(opened("outside.png", both))


@pytest.mark.parametrize("opened", [by_judge, by_guide])
def test_links_out_of_the_folders_are_followed_where_that_is_allowed(folder, opened):
    (folder / "link.png").symlink_to(folder.parent / "outside.png")
    (folder / "inside.jpg").symlink_to(folder / "whole.jpg")
    with pytest.raises(ValueError, match="symbolic link that leads outside.*by --mafa-allow-symlinks"):
        opened("link.png")
    assert opened("link.png", CsvImages(allow_symlinks=True)).shape[-1] == 3
    assert opened("inside.jpg").equal(opened("whole.jpg"))


def test_what_caches_are_keyed_by_is_the_file_that_is_opened(folder, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    Image.new("RGB", (4, 4)).save(elsewhere / "whole.jpg")
    ((here, size),) = CsvImages().contents(["whole.jpg"])
    ((there, other),) = CsvImages([str(elsewhere)]).contents(["whole.jpg"])
    assert (here, there) == (str(folder / "whole.jpg"), str(elsewhere / "whole.jpg")) and size != other
    assert list(CsvImages().contents(["../outside.png"])) == [("../outside.png", None)]


def test_alpha_lies_on_white(folder):
    assert by_guide("clear.png").unique().tolist() == [255]


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("bomb.png", "refused as a decompression bomb"),
        ("truncated.jpg", "cannot be read"),
        ("../outside.png", "leads outside"),
    ],
)
def test_training_reads_through_the_same_checks(folder, path, message, tmp_path):
    register_tiny(tmp_path, "tiny-train")
    rows = [("whole.jpg", f"caption {number}") for number in range(launch.BATCH - 1)] + [(path, "bad")]
    pd.DataFrame(rows, columns=["filepath", "title"]).to_csv("train.csv", sep="\t", index=False)
    argv = launch.arguments("train.csv", tmp_path / "logs", "--epochs", 1, "--mafa-siblings", "free")
    with pytest.raises(ValueError, match=message):
        train.main(argv)


def test_a_table_that_leads_out_of_its_folders_is_refused_before_a_model_is_built(folder, tmp_path):
    rows = [("whole.jpg", "good"), (str(tmp_path / "outside.png"), "bad")]
    pd.DataFrame(rows, columns=["filepath", "title"]).to_csv("train.csv", sep="\t", index=False)
    argv = launch.arguments("train.csv", tmp_path / "logs")
    with pytest.raises(ValueError, match=r"train\.csv, row 2: image path .*outside.png' leads outside .*--mafa-images"):
        train.main(argv)
    with pytest.raises(ValueError, match="--mafa-images gone: there is no such folder"):
        train.main([*argv, "--mafa-images", "gone"])
    assert not (tmp_path / "logs").exists()


def test_folders_are_refused_where_no_table_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr("lavis_mafa.openclip_train.data_check.check_shards", lambda *_: None)
    argv = launch.arguments("shard.tar", tmp_path / "logs", "--mafa-images", tmp_path, kind="webdataset")
    with pytest.raises(ValueError, match="--mafa-images is about CSV data, and there are none"):
        train.main(argv)
    argv = launch.arguments("shard.tar", tmp_path / "logs", "--mafa-allow-symlinks", kind="webdataset")
    with pytest.raises(ValueError, match="about CSV data and --imagenet-val, and there are none"):
        train.main(argv)


def test_a_con_d_of_lavis_leaves_pillow_strict(monkeypatch):
    """Shards are decoded by webdataset, which must not get truncated images filled up in grey."""
    pytest.importorskip("lavis", reason="Con-D is LAVIS'")
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", False)
    register = lavis_mafa.register
    monkeypatch.setattr("lavis_mafa.register", lambda: (register(), setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)))
    options = train.parser().parse_args(["--mafa-con-d", "arch=mafa_albef", "model_type=scenes_con_d"])
    train._con_d(options, torch.device("cpu"))
    assert not ImageFile.LOAD_TRUNCATED_IMAGES


@pytest.mark.parametrize("root", ["absolute", "relative"])
def test_folders_of_imagenet_stay_below_their_root(folder, root):
    (folder / "val" / "cat").mkdir(parents=True)
    (folder / "whole.jpg").rename(folder / "val" / "cat" / "a.jpg")
    (folder / "val" / "cat" / "b.png").symlink_to(folder.parent / "outside.png")
    place = str(folder / "val") if root == "absolute" else "val"
    args = SimpleNamespace(imagenet_val=place, imagenet_train=place, batch_size=1, workers=0)
    for images in (CsvImages(), CsvImages(allow_symlinks=True)):
        with train.replaced(open_clip_data, **train._readers(open_clip_data, images)):
            data = open_clip_data.get_imagenet(args, (as_array, as_array), "val").dataloader.dataset
        assert data[0][0].shape[-1] == 3
        if images.allow_symlinks:
            assert data[1][0].shape[-1] == 3
            continue
        with pytest.raises(ValueError, match="symbolic link that leads outside .*--mafa-allow-symlinks"):
            data[1]


@pytest.mark.parametrize("split", ["train", "val"])
def test_folders_of_imagenet_are_opened_by_listed_formats_alone(tmp_path, split):
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "a.jpg").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n")
    args = SimpleNamespace(imagenet_val=str(tmp_path), imagenet_train=str(tmp_path), batch_size=1, workers=0)
    with train.replaced(open_clip_data, **train._readers(open_clip_data, CsvImages())):
        data = open_clip_data.get_imagenet(args, (as_array, as_array), split).dataloader.dataset
    with pytest.raises(BadImageError, match=r"a\.jpg cannot be read \(it is none of"):
        data[0]
