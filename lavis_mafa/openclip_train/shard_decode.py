"""What is read of a sample in a shard: its image and its caption. Everything else stays the bytes that it is.

webdataset's own decoder goes by suffix and takes whatever a shard holds: it runs the pickles of .pyd, .pkl and .pth.
Tested in tests/openclip/test_shards.py.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from types import ModuleType
from typing import Any

from lavis_mafa.data.images import opened
from lavis_mafa.data.pixels import in_rgb
from lavis_mafa.data.rules import readable

IMAGES, CAPTION = ("jpg", "png", "jpeg", "webp"), "txt"  # open_clip takes the first of a sample that it has
Decode = Callable[..., object]


def decoded(sample: dict[str, Any]) -> dict[str, Any]:
    """The sample with its image in RGB, read as a file is (data/images.py), and its caption as text.

    Raises:
        BadImageError: naming shard and image.
        ValueError: a caption that is not UTF-8 or too long, or a file named as webdataset's own notes are (__url__).
    """
    if not isinstance(sample["__url__"], str):
        raise ValueError(f"a shard holds a file {sample['__key__']}.__url__, a name that webdataset keeps to itself")
    known = {key: value for key, value in sample.items() if key in ("__key__", "__url__")}
    suffix = next(suffix for suffix in IMAGES if suffix in sample)
    name = f"{sample['__key__']}.{suffix} in {sample['__url__']}"
    with opened(io.BytesIO(sample[suffix]), name) as image:
        return {**known, suffix: in_rgb(image), CAPTION: readable(sample[CAPTION].decode())}


def safe_decode(wds: ModuleType) -> dict[str, Decode]:
    """Stands in for `webdataset.decode("pilrgb", handler=…)`, as open_clip calls it."""
    return {"decode": lambda spec, handler: wds.map(decoded, handler=handler)}
