"""Figure 2: false negatives and retrieval over the search space M, at three shares of true matches."""

from __future__ import annotations

from axes import ALL, GRIT, NO_CON_D, NO_S_ITC, RANDOM
from measures import IN_BATCH, IN_ITM, PRECISION, RECALL, RETRIEVAL, Item, Row
from starts import RECORDS, SPACE, started

SHARES = (0.0005, 0.002, 0.01)  # of true matches
SPACES = (192, SPACE, RECORDS)  # whole batches of 64, so that none lies across two spaces


def figure2() -> Item:
    rows = []
    for share in SHARES:
        rows.append(_at(share, "random", (*RANDOM, *GRIT)))
        rows += [_at(share, "GRIT", GRIT, space) for space in SPACES]
        rows += [_at(share, "MAFA", (), space) for space in SPACES]
    # which part of MAFA does it, at the largest share of matches and with the hardest batches
    parts = [
        _at(SHARES[-1], "connections alone", NO_S_ITC, RECORDS),
        _at(SHARES[-1], "S-ITC alone", NO_CON_D, RECORDS),
    ]
    by_method = {name: [row.name for row in rows if row.labels["method"] == name] for name in ("GRIT", "MAFA")}
    against = [
        *zip(by_method["MAFA"], by_method["GRIT"], strict=True),
        *((_name(share, method, RECORDS), _name(share, method, SPACE)) for method in by_method for share in SHARES),
        *((part.name, names[-1]) for part in parts for names in by_method.values()),
    ]
    says = "a larger search space M makes batches harder, and puts more false negatives into them."
    title = f"Figure 2: the search space M, up to all {RECORDS:,} records, at three shares of true matches"
    shape = {"x": "M", "line": "method", "panel": "matches"}
    measures = (IN_BATCH, IN_ITM, *RETRIEVAL, PRECISION, RECALL)
    return Item("figure2", title, says, (*rows, *parts), measures, seeds=5, contrasts=tuple(against), **shape)


def _at(share: float, method: str, options: tuple[str, ...], space: int | None = None) -> Row:
    """A row of Figure 2, held against random batches at the same share of true matches; these have no search space."""
    data = (f"datasets.scenes.splits.train.match_share={share}",)
    searched = ALL if space == RECORDS else (f"run.search_space={space}",) if space else ()
    labels: dict[str, str | int] = {"matches": f"{share:.2%}", "method": method, "M": space or "-"}
    return Row(labels, started((*options, *searched), data), _name(share, "random", "-") if space else "")


def _name(share: float, method: str, space: int | str) -> str:
    return f"{share:.2%}, {method}, {space}"
