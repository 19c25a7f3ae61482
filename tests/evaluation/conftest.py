"""Before a test of evaluation imports LAVIS."""

import lavis_mafa.compat  # noqa: F401
