"""Importing this registers every judge that needs no LAVIS."""

from __future__ import annotations

import lavis_mafa.scorers.captions
import lavis_mafa.scorers.clip
import lavis_mafa.scorers.composite
import lavis_mafa.scorers.cross_encoder
import lavis_mafa.scorers.verdict_file
import lavis_mafa.scorers.vlm  # noqa: F401
