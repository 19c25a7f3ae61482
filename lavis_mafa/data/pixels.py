"""From pixels as a file has them to 8 bits of red, green and blue, upright. Tested in tests/data/test_images.py."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps


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


def in_rgb(image: Image.Image) -> Image.Image:
    """The stored image upright and in RGB: 16-bit and float levels scaled to 8 bits, alpha laid on white."""
    image = upright(image)
    if image.mode == "F" or image.mode.startswith("I"):  # convert() would clip both at 0 and 255
        return Image.fromarray(_eight_bits(np.asarray(image))).convert("RGB")
    if ("A" in image.mode.upper() and image.mode != "LAB") or "transparency" in image.info:
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
    return image.convert("RGB")


def _eight_bits(grey: NDArray[np.floating | np.integer]) -> NDArray[np.uint8]:
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
