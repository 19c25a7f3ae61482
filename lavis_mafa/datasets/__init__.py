"""LAVIS dataset builders over the records of `data`; `lavis_mafa.register()` loads them."""
