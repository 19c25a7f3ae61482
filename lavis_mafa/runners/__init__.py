"""LAVIS runners: a resumable training loop, and what GRIT, stage 2 and fine-tuning add to it."""
