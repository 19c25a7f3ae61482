"""ALBEF: pre-training on the shared forward, and the downstream models of LAVIS with any tower and width."""
