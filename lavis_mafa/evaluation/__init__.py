"""Evaluation on plain data: retrieval, ECCV Caption, human judgments, answers and captions."""
