"""Evaluation on plain data: retrieval, ECCV Caption, human judgments, answers and captions."""

import lavis_mafa.compat  # noqa: F401  before the first `lavis` import
