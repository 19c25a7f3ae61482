"""LAVIS tasks: what a step of training is, and what an evaluation asks of a model."""
