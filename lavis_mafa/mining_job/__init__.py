"""What `python -m lavis_mafa.mine` does around the engine of `mining`: data and networks in, a report out."""
