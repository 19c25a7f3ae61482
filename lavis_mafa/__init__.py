"""MAFA for LAVIS: vision-language pre-training that manages its false negatives. Importing registers nothing."""

__version__ = "0.2.0"


def register() -> None:
    """Hand our models, data sets, tasks and runners to LAVIS' registry; calling it again changes nothing."""
    from lavis_mafa.registration import register_all

    register_all()
