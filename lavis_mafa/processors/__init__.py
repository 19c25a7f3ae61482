"""Image and text processors for the LAVIS registry; `lavis_mafa.register()` loads them."""

import lavis_mafa.compat  # noqa: F401  before the first `lavis` import
