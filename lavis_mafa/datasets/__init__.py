"""LAVIS dataset builders over the records of `data`; `lavis_mafa.register()` loads them."""

import lavis_mafa.compat  # noqa: F401  before the first `lavis` import
