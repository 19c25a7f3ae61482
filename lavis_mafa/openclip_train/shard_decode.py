"""What is read of a sample in a shard: its image and its caption. Everything else stays the bytes that it is.

webdataset's own decoder goes by suffix and takes whatever a shard holds: it runs the pickles of .pyd, .pkl and .pth.
Tested in tests/openclip/test_shards.py.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

from PIL import Image

from lavis_mafa.data.images import opened
from lavis_mafa.data.pixels import in_rgb
from lavis_mafa.data.rules import readable

IMAGES, CAPTION = ("jpg", "png", "jpeg", "webp"), "txt"  # open_clip takes the first of a sample that it has


def read(sample: dict[str, Any], images: Sequence[str], captions: Sequence[str]) -> tuple[Image.Image, str]:
    """The image of a sample in RGB, read as a file is (data/images.py), and its caption; the first that it has.

    Raises:
        BadImageError: naming shard and image.
        ValueError: a caption that is not UTF-8 or too long, or a file named as webdataset's own notes are (__url__).
    """
    if not isinstance(sample["__url__"], str):
        raise ValueError(f"a shard holds a file {sample['__key__']}.__url__, a name that webdataset reserves")
    suffix, caption = (next(one for one in listed if one in sample) for listed in (images, captions))
    name = f"{sample['__key__']}.{suffix} in {sample['__url__']}"
    with opened(io.BytesIO(sample[suffix]), name) as image:
        return in_rgb(image), readable(sample[caption].decode())


def decoded(sample: dict[str, Any]) -> dict[str, Any]:
    """A sample of open_clip 3 with its image and its caption decoded, and nothing else. Raises as `read` does."""
    image, text = read(sample, IMAGES, (CAPTION,))
    return {"__key__": sample["__key__"], "__url__": sample["__url__"], IMAGES[0]: image, CAPTION: text}


def already_decoded(image: Image.Image, max_pixels: int | None = None) -> Image.Image:
    """Stands in for open_clip 4's decode_pil_rgb. Raises ValueError: more pixels than --max-image-pixels."""
    if max_pixels and image.width * image.height > max_pixels:
        raise ValueError(f"image of {image.width}x{image.height} pixels: --max-image-pixels is {max_pixels}")
    return image
