"""What `mine` found, against pairs that people judged (evaluation/judgments.py).

Tested in tests/jobs/test_mine_flickr8k.py.
"""

from __future__ import annotations

import numpy as np

from lavis_mafa.evaluation.judgments import JudgedPairs
from lavis_mafa.mining import results
from lavis_mafa.mining.corpus import Corpus, packed, places
from lavis_mafa.mining.engine import Mined
from lavis_mafa.mining.review import Labelled


def against_judgments(judged: JudgedPairs, corpus: Corpus, mined: Mined) -> dict[str, dict[str, float | None]]:
    """{choice of judged pairs: {precision, recall, coverage, …}}, choices as in JudgedPairs.selections.

    Precision and recall are over the judged candidates; coverage is the share of the judged matches that are among
    the candidates.
    """
    key_K = packed(mined.candidates.record_K, mined.candidates.text_K)
    text_P = corpus.places(judged.captions)[judged.pairs["text"]]
    key_P = packed(judged.record_I[judged.pairs["image"]], np.maximum(text_P, 0))
    at_P, inside_P = places(key_K, key_P)
    inside_P &= text_P >= 0
    label_P = judged.pairs["label"].to_numpy()
    found = {}
    for name, chosen_P in judged.selections().items():
        taken_P = chosen_P & inside_P
        outside = int((chosen_P & ~inside_P).sum())
        labels = Labelled(at_P[taken_P], label_P[taken_P], np.ones(int(taken_P.sum())), outside)
        found[name] = {
            **results.quality(mined, labels),
            "matches": int((chosen_P & label_P).sum()),
            "coverage": float((taken_P & label_P).sum() / (chosen_P & label_P).sum()),
        }
    return found
