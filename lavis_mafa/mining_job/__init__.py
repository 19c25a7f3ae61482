"""What `python -m lavis_mafa.mine` does around the engine of `mining`: LAVIS data and networks in, a report out."""

import lavis_mafa.compat  # noqa: F401  before the first `lavis` import
