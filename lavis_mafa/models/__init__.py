"""LAVIS adapters: registered models that share one forward (`base.py`). Imports LAVIS; `lavis_mafa.register()` loads it."""
