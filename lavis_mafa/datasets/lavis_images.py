"""LAVIS' own data sets open their images as ours do (data/images.py): listed formats, whole files, upright.

Tested in tests/data/test_images.py.
"""

from __future__ import annotations

import sys
from types import SimpleNamespace

from PIL import Image

from lavis_mafa.data.images import open_file


def open_lavis_images() -> None:
    """What LAVIS' modules of data sets call `Image` opens by `open_file` from now on; Pillow stays as it is."""
    ours = SimpleNamespace(open=open_file)
    for name, module in list(sys.modules.items()):
        if name.startswith("lavis.datasets.datasets.") and getattr(module, "Image", None) is Image:
            vars(module)["Image"] = ours
