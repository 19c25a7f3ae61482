"""LAVIS adapters: registered models that share one forward (`base.py`); `lavis_mafa.register()` loads them."""
