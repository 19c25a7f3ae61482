"""Opens images of a data set: always in RGB, never outside the root, and with an error that names a broken file."""

import os
import posixpath
from collections.abc import Iterator, Sequence
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

FilePath = str | os.PathLike[str]
Roots = FilePath | Sequence[FilePath]  # the folder, or folders, that image paths start from


class BadImageError(ValueError):
    """An image file that is missing, unreadable, truncated, empty or too large; the message names it."""


@dataclass(frozen=True)
class ImageFiles:
    """Opens the image of a record: the `open_image` of a data set whose images are files below `root`.

    source: whose images they are, for messages: "split val (my/val.json)".
    """

    root: Roots
    images: pa.Array  # (N,) relative paths
    source: str = ""

    def __call__(self, record: int) -> Image.Image:
        try:
            return open_image(self.root, self.images[record].as_py())
        except ValueError as error:
            if not self.source:
                raise
            raise type(error)(f"{self.source}: {error}") from error


def open_image(root: Roots, path: str) -> Image.Image:
    """The image root/path in RGB, as `open_file` gives it.

    ValueError if `path` leads out of root; BadImageError, naming the file, if it cannot be read.
    """
    return open_file(image_file(root, path))


def folders(root: Roots) -> list[FilePath]:
    return [root] if isinstance(root, (str, os.PathLike)) else list(root)


def relative_path(root: Roots, path: str) -> str:
    """An image path in one spelling, relative to the image folder: the same for a file however it is written.

    An absolute path below an image folder is relative to it, to the innermost one of several.

    Raises:
        ValueError: the path leads out of every image folder.
    """
    cleaned = clean_path(path)
    if posixpath.isabs(cleaned):
        above = [place for folder in folders(root) if cleaned.startswith(place := _ending_in_slash(folder))]
        cleaned = cleaned[max(map(len, above)) :] if above else ".."
    if cleaned.split("/")[0] == "..":
        several = ", ".join(map(str, folders(root)))
        raise ValueError(
            f"image path {path!r} leads outside the image folder {several}: make it relative to that folder, or name "
            "the folder that it is in as one more image folder"
        )
    return cleaned


def _ending_in_slash(folder: FilePath) -> str:
    return posixpath.join(os.path.abspath(folder), "")


def image_file(root: Roots, path: str) -> Path:
    """The file of an image path; of several folders the one that has it, and the first where none has.

    Raises:
        ValueError: the path leads out of every image folder.
        BadImageError: two folders have it.
    """
    relative = relative_path(root, path)
    files = [Path(folder, relative) for folder in folders(root)]
    found = [file for file in files if file.is_file()] if len(files) > 1 else files
    if len(found) > 1:
        raise BadImageError(
            f"image {relative} is both {found[0]} and {found[1]}: name the folder above both as the image folder"
        )
    if not found:
        raise BadImageError(
            f"no image file {relative} below {', '.join(map(str, folders(root)))}: check the annotation"
        )
    return found[0]


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
