"""What `lavis_mafa.register()` does: add our models, builders, tasks and runners to LAVIS' registry, once."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import lavis_mafa.compat  # before the first `lavis` import

from lavis_mafa.common.downloads import fetched


def _download_by_url() -> None:
    """LAVIS keeps what it downloads by the last part of its URL; from now on as ours is kept (common/downloads.py)."""
    from lavis.common.registry import registry

    def download_cached_file(url: str, check_hash: bool = True, progress: bool = False) -> str:
        return str(fetched(url, registry.get_path("cache_root")))

    for name, module in list(sys.modules.items()):
        if name.startswith("lavis.") and "download_cached_file" in vars(module):
            vars(module)["download_cached_file"] = download_cached_file


def register_all() -> None:
    """Import LAVIS and everything of ours that registers itself, which a module does when it is first imported."""
    import lavis
    import lavis.common.optims  # `import lavis` forgets the schedulers …
    import lavis.runners  # … and the runners
    from lavis.common.registry import registry

    import lavis_mafa.datasets.lavis_images
    import lavis_mafa.datasets.pairs
    import lavis_mafa.datasets.questions
    import lavis_mafa.datasets.statements
    import lavis_mafa.models.albef.pretrain
    import lavis_mafa.models.albef.tasks
    import lavis_mafa.models.blip2.llm
    import lavis_mafa.models.blip2.stage1
    import lavis_mafa.models.blip2.stage2
    import lavis_mafa.models.dual
    import lavis_mafa.models.openclip
    import lavis_mafa.processors.albef
    import lavis_mafa.processors.openclip
    import lavis_mafa.runners.grit
    import lavis_mafa.runners.retrieval
    import lavis_mafa.runners.stage2
    import lavis_mafa.scorers.bi_encoder
    import lavis_mafa.scorers.con_d
    import lavis_mafa.scorers.own_head
    import lavis_mafa.scorers.without_lavis
    import lavis_mafa.tasks.albef
    import lavis_mafa.tasks.captions
    import lavis_mafa.tasks.pretrain
    import lavis_mafa.tasks.stage2
    import lavis_mafa.tasks.vqa

    lavis_mafa.datasets.lavis_images.open_lavis_images()
    _download_by_url()
    cache = os.environ.get("LAVIS_MAFA_CACHE", str(Path.home() / ".cache" / "lavis"))
    registry.mapping["paths"]["cache_root"] = cache  # LAVIS' own points to a folder of its authors' cluster
