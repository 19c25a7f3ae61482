"""Opens images of a data set: always in RGB, never outside the root, and with an error that names a broken file."""

import os
import posixpath
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import Image, ImageFile

from lavis_mafa.data.identity import clean_path


class BadImageError(ValueError):
    """An image file that is missing, unreadable, truncated, empty or too large; the message names it."""


@dataclass(frozen=True)
class ImageFiles:
    """Opens the image of a record: the `open_image` of a data set whose images are files below `root`."""

    root: str
    images: pa.Array  # (N,) relative paths

    def __call__(self, record: int) -> Image.Image:
        return open_image(self.root, self.images[record].as_py())


def open_image(root: str | os.PathLike[str], path: str) -> Image.Image:
    """The image root/path in RGB, as `open_file` gives it.

    ValueError if `path` is absolute or leads out of root; BadImageError, naming the file, if it cannot be read.
    """
    cleaned = clean_path(path)
    if posixpath.isabs(cleaned) or cleaned.split("/")[0] == "..":
        raise ValueError(f"image path {path!r} leads outside the image folder {root}: make it relative to that folder")
    return open_file(Path(root, cleaned))


def open_file(path: str | os.PathLike[str]) -> Image.Image:
    """The image in RGB: 16-bit scaled to 8, alpha laid on white, of an animation the first frame.

    BadImageError, naming the file, if it cannot be read, is truncated, or is too large.
    """
    file = Path(path)
    if not file.is_file():
        raise BadImageError(f"no image file {file}: check the image folder and the annotation")
    if not file.stat().st_size:
        raise BadImageError(f"image file {file} is empty (zero bytes): copy it again or remove its rows")
    try:
        with whole_files_only(), Image.open(file) as image:
            _refuse_bomb(image)
            return _rgb(image)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise BadImageError(f"image file {file} is refused as a decompression bomb ({error}): shrink it") from error
    except Exception as error:  # Pillow's decoders raise all kinds of errors for damaged files
        raise BadImageError(f"image file {file} cannot be read ({error}): replace it or remove its rows") from error


@contextmanager
def whole_files_only() -> Iterator[None]:
    """LAVIS makes Pillow fill up truncated images in grey, for the whole process; inside, they are an error.

    Pillow's setting is afterwards what it was before.
    """
    allowed, ImageFile.LOAD_TRUNCATED_IMAGES = ImageFile.LOAD_TRUNCATED_IMAGES, False
    try:
        yield
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = allowed


def _refuse_bomb(image: Image.Image) -> None:
    # Pillow only warns between its limit and twice its limit.
    limit, pixels = Image.MAX_IMAGE_PIXELS, image.width * image.height
    if limit is not None and pixels > limit:
        raise Image.DecompressionBombError(f"{pixels} pixels, at most {limit} are read")


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16 bits a pixel (older Pillow widens them to 32); convert() would clip at 255
        grey = np.asarray(image)
        levels = 257 if grey.dtype.itemsize == 2 or grey.max() > 255 else 1
        return Image.fromarray((grey // levels).clip(0, 255).astype(np.uint8)).convert("RGB")
    if ("A" in image.mode.upper() and image.mode != "LAB") or "transparency" in image.info:
        layers = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        white.alpha_composite(layers)
        return white.convert("RGB")
    return image.convert("RGB")
