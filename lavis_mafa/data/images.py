"""Opens images of a data set: always in RGB, never outside the root, and with an error that names a broken file."""

import os
import posixpath
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageFile, ImageOps

from lavis_mafa.common.files import mistaken
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
    """The image in RGB, upright: 16-bit and float levels scaled to 8 bits, alpha laid on white, of an animation the
    first frame, turned as its EXIF orientation says.

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
            return _rgb(upright(image))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise BadImageError(f"image file {file} is refused as a decompression bomb ({error}): shrink it") from error
    except Exception as error:  # Pillow's decoders raise all kinds of errors for damaged files
        if what := mistaken(file):
            raise BadImageError(f"image file {file} {what}") from error
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


def is_turned(image: Image.Image) -> bool:
    """True where the image is stored turned or mirrored, and its EXIF orientation says how to undo that."""
    try:
        return image.getexif().get(ExifTags.Base.Orientation, 1) in range(2, 9)
    except Exception:  # a damaged EXIF block says nothing; viewers pass over it, too
        return False


def upright(image: Image.Image) -> Image.Image:
    """The image as every viewer shows it: turned and mirrored by its EXIF orientation."""
    image.load()  # Pillow turns TIFF files itself while it loads them
    return ImageOps.exif_transpose(image) if is_turned(image) else image


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F" or image.mode.startswith("I"):  # convert() would clip both at 0 and 255
        return Image.fromarray(_eight_bits(np.asarray(image))).convert("RGB")
    if ("A" in image.mode.upper() and image.mode != "LAB") or "transparency" in image.info:
        layers = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        white.alpha_composite(layers)
        return white.convert("RGB")
    return image.convert("RGB")


def _eight_bits(grey: NDArray[Any]) -> NDArray[np.uint8]:
    """Grey levels scaled to 0 .. 255: floats from 0 .. 1, integers from 0 .. 65535 (older Pillow widens 16 bits to 32).

    Levels that fit in 0 .. 255 stay as they are, except where the file has 16 bits a pixel.
    """
    low, high, floats = grey.min(), grey.max(), grey.dtype.kind == "f"
    if not (low >= 0 and high <= (255 if floats else 65535)):  # NaN, too
        scales = "0 .. 1 or 0 .. 255" if floats else "0 .. 65535"
        raise ValueError(f"its grey levels lie in {low} .. {high}, not in {scales}; save it with 8 or 16 bits a pixel")
    if floats:
        return (grey * (255 if high <= 1 else 1)).round().astype(np.uint8)
    return (grey // (257 if grey.dtype.itemsize == 2 or high > 255 else 1)).astype(np.uint8)
