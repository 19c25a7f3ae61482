"""Before a test imports LAVIS."""

import lavis_mafa.compat  # noqa: F401
