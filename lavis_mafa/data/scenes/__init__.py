"""Embedded data: rendered scenes of coloured shapes, captions in a small language, and the truth about every pair."""
