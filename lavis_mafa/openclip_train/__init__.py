"""What `python -m lavis_mafa.openclip.train` does around the training script of open_clip."""
