"""LAVIS tasks: what a step of training is, and what an evaluation asks of a model."""

import lavis_mafa.compat  # noqa: F401  before the first `lavis` import
