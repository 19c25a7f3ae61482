"""Table 1 and Figure 2 on photographs, where the truth is known of siblings, and of what people judged."""

from __future__ import annotations

from axes import GRIT, NO_S_ITC, RANDOM
from cells import Cell
from measures import ANNOTATED, IN_BATCH, IN_ITM, JUDGED, PRECISION, RECALL, Item, Row

FLICKR8K, CON_D = "projects/mafa/paper/flickr8k.yaml", "projects/mafa/blip2/train_con_d_flickr8k.yaml"
UNSURE, ABOVE_HALF = "MAFA above 0.5", ("model.mafa.low=0.5", "model.mafa.high=0.5")  # this Con-D is seldom above 0.8


def flickr8k() -> Item:
    """The first row is the Con-D that every other starts from and asks, trained once for all seeds."""
    con_d = Cell(CON_D, ("run.valid_splits=[]", "run.k_test=8"), every_seed=True)
    start = Row({"method": "Con-D, the start", "M": "-"}, con_d)
    random = Row({"method": "random", "M": "-"}, Cell(FLICKR8K, (*RANDOM, *GRIT), con_d))
    rows = [start, random]
    methods = (
        ("GRIT", (640, "all"), GRIT),
        ("MAFA", (640,), ()),
        (UNSURE, (640, "all"), ABOVE_HALF),
        (f"{UNSURE}, no S-ITC", (640,), (*ABOVE_HALF, *NO_S_ITC)),
    )
    for method, sizes, options in methods:
        for size in sizes:
            labels: dict[str, str | int] = {"method": method, "M": size}
            cell = Cell(FLICKR8K, (*options, f"run.search_space={size}"), con_d)
            rows.append(Row(labels, cell, random.name))
    says = (
        "GRIT has several times the false negatives of random batches, more of them the larger M, and MAFA finds them."
    )
    title = "Table 1 and Figure 2 on Flickr8k: siblings among the hardest negatives"
    pairs = ((f"{method}, {size}", f"GRIT, {size}") for method, sizes, _ in methods[1:] for size in sizes)
    against = ((random.name, start.name), *pairs)
    measures = (IN_BATCH, IN_ITM, *ANNOTATED, *JUDGED, PRECISION, RECALL)
    return Item("flickr8k", title, says, tuple(rows), measures, seeds=5, contrasts=against, needs="LAVIS_MAFA_DATA")
