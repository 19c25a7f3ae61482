"""Zero-shot classification on folders of plain colours, by a model that sees colours and reads their names."""

import open_clip
import pytest
import torch
from PIL import Image, ImageFile

from lavis_mafa.data.images import BadImageError
from lavis_mafa.openclip.zero_shot import class_names, zero_shot

from .tiny import tiny_clip

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "dark_blue": (0, 0, 200)}
NAMES = ["dark blue", "green", "red"]  # folders are sorted


class Seer:
    """Features by hand: the mean colour of an image, and the colour that a text names."""

    def eval(self):
        return self

    def encode_image(self, images, normalize):
        return torch.nn.functional.normalize(images, dim=1)

    def encode_text(self, texts, normalize):
        return texts


def tokenizer(texts):
    found = [next(name for name in NAMES if name in text) for text in texts]
    return torch.stack([torch.tensor(COLOURS[name.replace(" ", "_")]).float().div(255) for name in found])


def mean_colour(image):
    return torch.tensor(image.convert("RGB").getpixel((0, 0))).float() / 255


@pytest.fixture
def folder(tmp_path):
    for name, colour in COLOURS.items():
        (tmp_path / name).mkdir()
        for number in range(3):
            Image.new("RGB", (4, 4), colour).save(tmp_path / name / f"{number}.png")
    Image.new("RGB", (4, 4), COLOURS["green"]).save(tmp_path / "red" / "wrong.png")
    return tmp_path


@pytest.mark.parametrize("templates", ["openai", "simple", "name"])
def test_the_share_of_images_whose_class_is_named(folder, templates):
    found = zero_shot(Seer(), tokenizer, mean_colour, folder, templates=templates, batch_size=4)
    assert found == {"top1": pytest.approx(90.0), "top5": pytest.approx(100.0), "images": 10, "classes": 3}


def test_a_truncated_image_is_named_even_where_lavis_is_loaded(folder, monkeypatch):
    whole = (folder / "red" / "0.png").read_bytes()
    (folder / "red" / "0.png").write_bytes(whole[:-20])
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    with pytest.raises(BadImageError, match=r"0\.png cannot be read"):
        zero_shot(Seer(), tokenizer, mean_colour, folder, templates="name")


def test_a_link_out_of_the_folder_is_followed_where_that_is_allowed(folder, tmp_path_factory, monkeypatch):
    picture = next(folder.rglob("*.png"))
    (outside := tmp_path_factory.mktemp("elsewhere") / "outside.png").write_bytes(picture.read_bytes())
    picture.unlink()
    picture.symlink_to(outside)
    monkeypatch.chdir(folder.parent)
    with pytest.raises(ValueError, match="symbolic link that leads outside the image folder .*allow_symlinks: true"):
        zero_shot(Seer(), tokenizer, mean_colour, folder.name, templates="name")
    found = zero_shot(Seer(), tokenizer, mean_colour, folder.name, templates="name", allow_symlinks=True)
    assert found == zero_shot(Seer(), tokenizer, mean_colour, folder, templates="name", allow_symlinks=True)
    with pytest.raises(ValueError, match="allow_symlinks is 'yes'"):
        zero_shot(Seer(), tokenizer, mean_colour, folder, templates="name", allow_symlinks="yes")


def test_an_open_clip_model_classifies(folder):
    preprocess = open_clip.image_transform(32, is_train=False)
    found = zero_shot(tiny_clip().train(), open_clip.get_tokenizer("ViT-B-32"), preprocess, folder, templates="name")
    assert 0 <= found["top1"] <= found["top5"] == 100


def test_names_are_the_folders_or_imagenets():
    assert class_names(["dark_blue", "red"]) == ["dark blue", "red"]
    assert class_names([str(n) for n in range(1000)], "imagenet") == list(open_clip.IMAGENET_CLASSNAMES)
    with pytest.raises(ValueError, match="1000 classes"):
        class_names(["red"], "imagenet")
    with pytest.raises(ValueError, match="folders, imagenet"):
        class_names(["red"], "wordnet")


def test_what_is_not_there_is_reported(tmp_path):
    with pytest.raises(ValueError, match="class_name"):
        zero_shot(Seer(), tokenizer, mean_colour, tmp_path / "none")
    with pytest.raises(ValueError, match="openai, simple, name"):
        zero_shot(Seer(), tokenizer, mean_colour, tmp_path, templates="mine")
