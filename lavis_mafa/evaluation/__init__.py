"""Evaluation of what a language model says about images: predictions, verdicts, caption metrics, report."""
