"""Judges: whatever scores how well an image and a caption match, and the registry that names them."""
