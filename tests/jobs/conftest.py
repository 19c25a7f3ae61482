"""Before a test of jobs imports LAVIS."""

import lavis_mafa.compat  # noqa: F401
