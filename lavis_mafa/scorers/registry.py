"""Judges that `run.con_d` may name beside a matching network."""

SCORER_KEYS = {  # of run.con_d: verdicts that were mined before, a bi-encoder, the model itself
    "file": ("arch", "path"),
    "open_clip": ("arch", "vit_model"),
    "self": ("arch",),
}
