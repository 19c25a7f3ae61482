"""Opens images of a data set: always in RGB, never outside the root, and with an error that names a broken file."""

from __future__ import annotations

import os
import posixpath
import stat
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol, runtime_checkable

import pyarrow as pa
from PIL import Image, ImageFile, UnidentifiedImageError

from lavis_mafa.common.files import mistaken
from lavis_mafa.common.stdout import printable
from lavis_mafa.data.identity import clean_path
from lavis_mafa.data.pixels import in_rgb
from lavis_mafa.data.rules import DEFAULTS, FileRules

FilePath = str | os.PathLike[str]
Roots = FilePath | Sequence[FilePath]  # the folder, or folders, that image paths start from

# Pillow goes by content, not by suffix, and reads some formats by a program of its own (EPS starts Ghostscript).
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")


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
    rules: FileRules = DEFAULTS

    def __call__(self, record: int) -> Image.Image:
        try:
            return open_image(self.root, self.images[record].as_py(), self.rules)
        except ValueError as error:
            if not self.source:
                raise
            raise type(error)(f"{self.source}: {error}") from error

    def content(self) -> Iterator[object]:
        """Folder, name, size and time of every image."""
        yield [os.path.abspath(folder) for folder in folders(self.root)]
        yield from self._stamps()

    def lost(self) -> list[str]:
        """Paths of the images that are missing or empty. None is opened."""
        return [path for path, found in self._stamps() if not found or not found[0]]

    def _stamps(self) -> Iterator[tuple[str, tuple[int, int] | None]]:
        for path in self.images.to_pylist():
            try:
                yield path, size_and_time(image_file(self.root, path, FileRules(allow_symlinks=True)))
            except ValueError:
                yield path, None


@runtime_checkable
class HasContent(Protocol):
    """An `open_image` that can name what it opens without opening it."""

    def content(self) -> Iterable[object]: ...


def content_of(open_image: object) -> Iterable[object]:
    """What a cache of something made of images is keyed by: the folder, name, size and time of each.

    Nothing of images that are made on the spot: the records name them.
    """
    return open_image.content() if isinstance(open_image, HasContent) else ()


def size_and_time(file: Path) -> tuple[int, int] | None:
    """None for what is missing or cannot be reached: opening it says so."""
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns


def open_image(root: Roots, path: str, rules: FileRules = DEFAULTS) -> Image.Image:
    """The image root/path in RGB, as `open_file` gives it.

    ValueError if `path` leads out of root; BadImageError, naming the file, if it cannot be read.
    """
    return open_file(image_file(root, path, rules), rules)


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


def image_file(root: Roots, path: str, rules: FileRules = DEFAULTS) -> Path:
    """The file of an image path; of several folders the one that has it, and the first where none has.

    Raises:
        ValueError: the path, or a symbolic link on it, leads out of every image folder.
        BadImageError: two folders have it.
    """
    if "\0" in path:
        raise BadImageError(f"no image file {path!r}: check the annotation")
    relative = relative_path(root, path)
    files = [Path(folder, relative) for folder in folders(root)]
    found = [file for file in files if _is_there(file)] if len(files) > 1 else files
    if len(found) > 1:
        raise BadImageError(
            f"image {relative} is both {found[0]} and {found[1]}: name the folder above both as the image folder"
        )
    if not found:
        raise BadImageError(
            f"no image file {relative} below {', '.join(map(str, folders(root)))}: check the annotation"
        )
    if not rules.allow_symlinks:
        _refuse_link(root, found[0], path)
    return found[0]


def _is_there(file: Path) -> bool:
    try:
        return file.is_file()
    except OSError:  # a name too long, a folder that may not be entered: opening it says so
        return True


def _refuse_link(root: Roots, file: Path, path: str) -> None:
    real = os.path.realpath(file)
    if not any(real.startswith(_ending_in_slash(os.path.realpath(folder))) for folder in folders(root)):
        raise ValueError(
            f"image path {path!r} is a symbolic link that leads outside the image folder "
            f"{', '.join(map(str, folders(root)))}: if you trust the folder, set allow_symlinks: true for this data set"
        )


def open_file(path: str | os.PathLike[str], rules: FileRules = DEFAULTS) -> Image.Image:
    """The image in RGB, upright: 16-bit and float levels scaled to 8 bits, alpha laid on white, of an animation the
    first frame, turned as its EXIF orientation says.

    BadImageError, naming the file, if it cannot be read, is truncated, is too large, or is of none of FORMATS.
    """
    with opened(Path(path), str(path), rules) as image:
        return in_rgb(image)


@contextmanager
def opened(file: Path | IO[bytes], name: str, rules: FileRules = DEFAULTS) -> Iterator[Image.Image]:
    """The image as stored, not yet decoded; what goes wrong with it in the block is a BadImageError that names it."""
    shown = f"image file {printable(name, kept='')}"
    try:
        if isinstance(file, Path):
            _refuse_empty(file, shown)
        with _pillow_set(rules), Image.open(file, formats=FORMATS) as image:
            _refuse_bomb(image, rules)
            yield image
    except BadImageError:
        raise
    except (FileNotFoundError, NotADirectoryError) as error:
        raise BadImageError(f"no {shown}: check the image folder and the annotation") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise BadImageError(
            f"{shown} is refused as a decompression bomb ({error}): shrink it, or raise the data set's max_pixels"
        ) from error
    except Exception as error:  # Pillow's decoders raise all kinds of errors for damaged files, a disk some of its own
        raise BadImageError(f"{shown} {_what_is_wrong(file, error)}") from error


def _refuse_empty(file: Path, shown: str) -> None:
    status = file.stat()
    if not stat.S_ISREG(status.st_mode):  # a folder; a pipe, which would be waited for
        raise BadImageError(f"no {shown}: check the image folder and the annotation")
    if not status.st_size:
        raise BadImageError(f"{shown} is empty (zero bytes): copy it again or remove its rows")


def _what_is_wrong(file: Path | IO[bytes], error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        if isinstance(file, Path) and (what := mistaken(file)):
            return what
        return f"cannot be read (it is none of {', '.join(FORMATS)}): replace it or remove its rows"
    return f"cannot be read ({printable(str(error) or type(error).__name__, kept='')}): replace it or remove its rows"


@contextmanager
def _pillow_set(rules: FileRules) -> Iterator[None]:
    """Whole files only, and the limit of the rules instead of Pillow's, which afterwards is what it was before."""
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, rules.max_pixels
    try:
        with whole_files_only():
            yield
    finally:
        Image.MAX_IMAGE_PIXELS = limit


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


def _refuse_bomb(image: Image.Image, rules: FileRules) -> None:
    # Pillow only warns between its limit and twice its limit.
    pixels = image.width * image.height
    if pixels > rules.max_pixels:
        raise Image.DecompressionBombError(f"{pixels:,} pixels, at most {rules.max_pixels:,} are read")
