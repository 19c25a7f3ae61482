"""LAVIS adapters: registered models that share one forward (`base.py`); `lavis_mafa.register()` loads them."""

import lavis_mafa.compat  # noqa: F401  before the first `lavis` import
