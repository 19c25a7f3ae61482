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

    import lavis_mafa.answers.tasks
    import lavis_mafa.builders
    import lavis_mafa.finetuning
    import lavis_mafa.models.albef
    import lavis_mafa.models.albef_tasks
    import lavis_mafa.models.blip2
    import lavis_mafa.models.blip2_llm
    import lavis_mafa.models.clip
    import lavis_mafa.openclip_processors
    import lavis_mafa.processors
    import lavis_mafa.question_builders
    import lavis_mafa.runner
    import lavis_mafa.stage2_runner
    import lavis_mafa.statement_builders
    import lavis_mafa.tasks  # noqa: F401

    cache = os.environ.get("LAVIS_MAFA_CACHE", str(Path.home() / ".cache" / "lavis"))
    registry.mapping["paths"]["cache_root"] = cache  # LAVIS' own points to a folder of its authors' cluster
