"""Hard negatives that a judge has cleared, as tuples for contrastive training. Tested in tests/mining/test_tuples.py.

A nearest neighbour that is not annotated is often a match. Of the candidates that mining judged, only those with the
verdict negative enter a tuple; connections and ambiguous pairs never do.
"""

from __future__ import annotations

import pandas as pd

from lavis_mafa.core.pairs import NEGATIVE, VERDICTS
from lavis_mafa.data.identity import text_id

FOUND, ANNOTATED = ("image", "caption", "similarity", "p", "verdict"), ("image", "caption")
KEYS = {"caption": ("text", "image"), "image": ("image", "caption")}  # anchor: what it is grouped by, what it meets


def hard_negative_tuples(
    found: pd.DataFrame, annotated: pd.DataFrame, negatives: int = 1, anchor: str = "caption"
) -> pd.DataFrame:
    """One row for each annotated pair, with the most similar negatives of its anchor.

    The columns are those of the n-tuples of sentence-transformers' `mine_hard_negatives`, where an anchor with too few
    negatives is left out, too.

    Args:
        found: judged candidates, of `find_connections` or of a connections.parquet: columns image, caption,
            similarity, p and verdict.
        annotated: the pairs that match, columns image and caption, a row each; images are named as in `found`.
        negatives: n, how many negatives a row has.
        anchor: caption (positive and negatives are images) or image (they are captions).

    Returns:
        Columns anchor, positive, negative_1 … negative_n, the most similar negative first; in the order of `annotated`.

    Raises:
        ValueError: a column is missing, a verdict or an anchor unknown, negatives below 1, or no image in both frames.

    Example:
        >>> found = pd.DataFrame({"image": ["b", "c"], "caption": ["a dog", "a dog"], "similarity": [0.9, 0.7],
        ...                       "p": [0.95, 0.1], "verdict": ["connection", "negative"]})
        >>> annotated = pd.DataFrame({"image": ["a", "c"], "caption": ["a dog", "a car"]})
        >>> hard_negative_tuples(found, annotated).values.tolist()
        [['a dog', 'a', 'c']]
    """
    if anchor not in KEYS:
        raise ValueError(f"anchor is {anchor!r}; allowed: {', '.join(KEYS)}")
    if negatives < 1:
        raise ValueError(f"negatives is {negatives}; it must be a whole number, at least 1")
    _check(found, annotated)
    own, (key, other) = _with_text(annotated[[*ANNOTATED]]), KEYS[anchor]
    cleared = _cleared(found, own)
    number = cleared.groupby(key).cumcount() + 1
    enough = cleared.groupby(key)[key].transform("size") >= negatives
    hardest = cleared.assign(number=number)[enough & (number <= negatives)]
    wide = hardest.pivot(index=key, columns="number", values=other).reindex(columns=range(1, negatives + 1))
    rows = own.join(wide.add_prefix("negative_"), on=key, how="inner")
    named = rows.rename(columns={anchor: "anchor", other: "positive"})
    return named[["anchor", "positive", *wide.add_prefix("negative_").columns]].reset_index(drop=True)


def _cleared(found: pd.DataFrame, own: pd.DataFrame) -> pd.DataFrame:
    """The negatives among the candidates, the most similar first, less pairs that are annotated."""
    negative = _with_text(found[found["verdict"] == VERDICTS[NEGATIVE]])
    annotated = pd.MultiIndex.from_frame(own[["image", "text"]])
    known = pd.MultiIndex.from_frame(negative[["image", "text"]]).isin(annotated)
    return negative[~known].sort_values(["similarity", "p"], ascending=False, kind="stable")


def _with_text(pairs: pd.DataFrame) -> pd.DataFrame:
    """Each pair once, with the id of its caption: captions that differ in case or spaces are one text."""
    return pairs.assign(text=pairs["caption"].map(text_id)).drop_duplicates(["image", "text"])


def _check(found: pd.DataFrame, annotated: pd.DataFrame) -> None:
    for name, frame, columns in (("found", found, FOUND), ("annotated", annotated, ANNOTATED)):
        if lacking := [column for column in columns if column not in frame]:
            raise ValueError(f"{name} lacks the columns {', '.join(lacking)}: it needs {', '.join(columns)}")
    if unknown := sorted(set(map(str, found["verdict"])) - {*VERDICTS.values()}):
        raise ValueError(f"found: verdict is {unknown[0]!r}; it must be {', '.join(VERDICTS.values())}")
    if len(found) and not found["image"].isin(annotated["image"]).any():
        raise ValueError(
            f"no image of found (such as {found['image'].iloc[0]!r}) is in annotated (such as "
            f"{annotated['image'].iloc[0] if len(annotated) else None!r}): name images the same way in both"
        )
