"""Frozen networks of transformers that read texts; without LAVIS."""
