"""Judges: whatever scores how well an image and a caption match, and the registry that names them."""

import lavis_mafa.compat  # noqa: F401  before the first `lavis` import
