"""What `lavis_mafa.register()` does: hand our models, builders, tasks and runners to LAVIS' registry, once."""

from __future__ import annotations

import os
from pathlib import Path


def register_all() -> None:
    """Import LAVIS and everything of ours that registers itself, which a module does on its first import only."""
    import lavis
    import lavis.common.optims  # `import lavis` forgets the schedulers …
    import lavis.runners  # noqa: F401  … and the runners
    from lavis.common.registry import registry

    cache = os.environ.get("LAVIS_MAFA_CACHE", str(Path.home() / ".cache" / "lavis"))
    registry.mapping["paths"]["cache_root"] = cache  # LAVIS' own points to a folder of its authors' cluster
