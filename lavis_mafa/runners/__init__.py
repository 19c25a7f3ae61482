"""LAVIS runners: a resumable training loop, and what GRIT, stage 2 and fine-tuning add to it."""

import lavis_mafa.compat  # noqa: F401  before the first `lavis` import
