"""Zero-shot classification of image folders, root/class_name/*.png. Tested in tests/openclip/test_zero_shot.py.

Class names and templates are open_clip's (CLIP, arXiv 2103.00020, section 3.1.4).
"""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import open_clip
import torch
from torch import Tensor
from torchvision.datasets import ImageFolder

from lavis_mafa.common.loading import WatchedLoader
from lavis_mafa.core.scorer import View
from lavis_mafa.data.images import open_image
from lavis_mafa.data.rules import FileRules
from lavis_mafa.openclip.judges import ClipModel, Tokenizer

TEMPLATES = {
    "openai": open_clip.OPENAI_IMAGENET_TEMPLATES,
    "simple": open_clip.SIMPLE_IMAGENET_TEMPLATES,
    "name": (str,),
}
CLASS_NAMES = ("folders", "imagenet")
TOP = 5


def class_names(folders: list[str], names: str = "folders") -> list[str]:
    """What the classes of an image folder are called, in the order of its sorted folders.

    names: `folders`, their own names with spaces for underscores; `imagenet`, open_clip's names of ImageNet's classes.
    ValueError: `imagenet` where there are not 1000 folders, or another choice.
    """
    if names == "folders":
        return [folder.replace("_", " ") for folder in folders]
    if names != "imagenet":
        raise ValueError(f"class names are {names!r}; choose one of {', '.join(CLASS_NAMES)}")
    if len(folders) != len(open_clip.IMAGENET_CLASSNAMES):
        raise ValueError(f"ImageNet has 1000 classes, but there are {len(folders)} folders: use the folders' own names")
    return list(open_clip.IMAGENET_CLASSNAMES)


@torch.no_grad()
def zero_shot(
    model: ClipModel,
    tokenizer: Tokenizer,
    preprocess: View,
    images: str | Path,
    *,
    templates: str = "openai",
    names: str = "folders",
    allow_symlinks: bool = False,
    batch_size: int = 64,
    workers: int = 0,
    device: torch.device | str = "cpu",
) -> dict[str, float]:
    """Zero-shot accuracy on a folder of images, a folder a class.

    Args:
        model: open_clip's, or anything with its encode_image and encode_text(…, normalize=True).
        tokenizer: of the model.
        preprocess: PIL image → tensor.
        images: the folder.
        templates: which prompts a class name is put into.
        names: where class names come from.
        allow_symlinks: a link below the folder may lead out of it.
        batch_size: images and prompts a batch.
        workers: processes that read images.
        device: where the model is.

    Returns:
        {"top1", "top5": percent, "images", "classes": counts}; with under 5 classes top5 is 100.

    Raises:
        ValueError: no such folder, no images in it, a link that leads out of it, or a choice of templates or names
            that is not there.
    """
    if templates not in TEMPLATES:
        raise ValueError(f"templates are {templates!r}; choose one of {', '.join(TEMPLATES)}")
    if not isinstance(allow_symlinks, bool):
        raise ValueError(f"allow_symlinks is {allow_symlinks!r}: allowed is true or false")
    data = _image_folder(Path(images).expanduser(), preprocess, FileRules(allow_symlinks=allow_symlinks))
    model.eval()
    classifier_DC = open_clip.build_zero_shot_classifier(
        _Texts(model), tokenizer, class_names(data.classes, names), TEMPLATES[templates], device=device
    )
    hits = torch.zeros(min(TOP, len(data.classes)))
    loader = WatchedLoader(
        data, batch_size=batch_size, num_workers=workers, name_of=lambda item: str(data.imgs[item][0])
    )
    for image_BCHW, label_B in loader:
        feature_BD = model.encode_image(image_BCHW.to(device), normalize=True)
        best_BK = (feature_BD @ classifier_DC).topk(len(hits)).indices.cpu()
        hits += (best_BK == label_B[:, None]).sum(dim=0)
    top = 100 * hits.cumsum(0) / len(data)
    return {"top1": top[0].item(), "top5": top[-1].item(), "images": len(data), "classes": len(data.classes)}


class _Texts:
    """How open_clip asks a model for the features of texts: 3 by encode_text, 4 by a call."""

    def __init__(self, model: ClipModel) -> None:
        self.encode_text = model.encode_text

    def __call__(self, text: Tensor) -> dict[str, Tensor]:
        return {"text_features": self.encode_text(text, normalize=True)}


def _image_folder(root: Path, preprocess: View, rules: FileRules) -> ImageFolder:
    try:
        place = os.path.abspath(root)  # so that the paths in it are absolute, too
        return ImageFolder(place, preprocess, loader=partial(open_image, place, rules=rules))
    except FileNotFoundError as error:
        raise ValueError(f"{root} is not an image folder (root/class_name/*.png): {error}") from error
