"""Data sets that are one JSON object, as COCO and Karpathy publish theirs: read as rows, and with captions added."""

from __future__ import annotations

import posixpath
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import count
from typing import cast

from lavis_mafa.data.identity import key_string

Document = Mapping[str, object]
KNOWN = "a list of rows, JSON lines, COCO's captions (images, annotations) or Karpathy's splits (images with sentences)"
SPLITS = {"train": ("train", "restval")}  # COCO's usual training split; any other is called as the file calls it


def is_layout(document: Document) -> bool:
    """Whether a JSON object is a whole data set of a known layout, not a row."""
    return _is_coco(document) or _is_karpathy(document)


def layout_rows(document: Document, split: str | None) -> Iterator[tuple[str, object]]:
    """(place, {image, image_id, caption: list}) of every image of a layout; of Karpathy's only those of `split`.

    Raises:
        ValueError: an annotation without its image or its caption, or a split that the file lacks.
    """
    return _coco(document) if _is_coco(document) else _karpathy(_objects(document, "images"), split)


def layout_hint(row: Document) -> str:
    """For the message about a row without an image: that it is no row but a data set of another layout."""
    held = [name for name in row if _objects(row, name)]
    return f"; {held[0]!r} holds a list of objects, and the layouts that are read are {KNOWN}" if held else ""


def add_captions(document: Document, captions_of: Callable[[str, str | None], list[str]]) -> int:
    """Adds captions to a layout, in place; returns how many. captions_of: path, id of an image → its new captions."""
    added, annotations = 0, _objects(document, "annotations")
    used = [number for one in annotations if type(number := one.get("id")) is int]
    numbers = count(max(used, default=0) + 1)
    for image in _objects(document, "images"):
        for caption in captions_of(_path(image), _key(image)):
            if annotations:
                annotations.append({"image_id": image.get("id"), "id": next(numbers), "caption": caption})
            else:
                cast(list[object], image["sentences"]).append({"raw": caption})
            added += 1
    return added


def _objects(document: Document, name: str) -> list[dict[str, object]]:
    """The list of objects at a key; empty where anything else stands there."""
    value = document.get(name)
    return value if isinstance(value, list) and all(isinstance(one, Mapping) for one in value) else []


def _is_coco(document: Document) -> bool:
    return bool(_objects(document, "images") and _objects(document, "annotations"))


def _is_karpathy(document: Document) -> bool:
    images = _objects(document, "images")
    return bool(images) and "sentences" in images[0]


def _coco(document: Document) -> Iterator[tuple[str, object]]:
    captions: dict[str, list[object]] = defaultdict(list)
    images = _objects(document, "images")
    for number, one in enumerate(_objects(document, "annotations"), 1):
        if "image_id" not in one or "caption" not in one:
            raise ValueError(f"annotation {number} has no image_id or no caption; COCO's captions_*.json have both")
        captions[key_string(one["image_id"])].append(one["caption"])
    if unknown := captions.keys() - {_key(image) for image in images}:
        raise ValueError(f"annotations name the image_id {min(unknown)}, which its images lack")
    for number, image in enumerate(images, 1):
        key = _key(image)
        yield (
            f"image {number}",
            {"image": image.get("file_name"), "image_id": key, "caption": captions.get(str(key), [])},
        )


def _karpathy(images: Sequence[Document], split: str | None) -> Iterator[tuple[str, object]]:
    found, wanted = {image.get("split") for image in images}, SPLITS.get(str(split), (split,))
    if split is not None and found != {None} and found.isdisjoint(wanted):
        names = ", ".join(sorted(map(str, found)))
        raise ValueError(f"it has no split {split!r}; give the file to a split that it has: {names}")
    for number, image in enumerate(images, 1):
        if split is None or image.get("split") in (None, *wanted):
            sentences = cast(list[object], image.get("sentences") or [])
            captions = [one.get("raw") if isinstance(one, Mapping) else one for one in sentences]
            yield f"image {number}", {"image": _path(image), "image_id": _key(image), "caption": captions}


def _path(image: Document) -> str:
    """COCO's file_name; Karpathy's filename, below filepath where there is one."""
    name = image.get("file_name") or image.get("filename")
    return posixpath.join(str(image.get("filepath") or ""), name) if isinstance(name, str) else ""


def _key(image: Document) -> str | None:
    key = next((image[name] for name in ("id", "cocoid", "imgid") if image.get(name) is not None), None)
    return None if key is None else key_string(key)
