"""Judges: whatever scores how well an image and a caption match, and the registry that names them.

The modules that stand on LAVIS' networks import lavis_mafa.compat themselves; the others run without LAVIS.
"""
