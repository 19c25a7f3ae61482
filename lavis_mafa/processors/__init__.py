"""Image and text processors for the LAVIS registry; `lavis_mafa.register()` loads them."""
