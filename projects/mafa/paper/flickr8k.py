"""Table 1 and Figure 2 on photographs, where the truth is known of siblings, and of what people judged."""

from __future__ import annotations

from axes import GRIT, RANDOM
from cells import Cell
from measures import ANNOTATED, IN_BATCH, IN_ITM, JUDGED, PRECISION, RECALL, Item, Row

FLICKR8K, CON_D = "projects/mafa/paper/flickr8k.yaml", "projects/mafa/blip2/train_con_d_flickr8k.yaml"
UNSURE = ("model.mafa.low=0.5", "model.mafa.high=0.5")  # this Con-D is hardly ever above 0.8


def flickr8k() -> Item:
    """Rows start from one Con-D for all seeds, which takes as long to train as all of them."""
    rows = [Row({"method": "random", "M": "-"}, _started((*RANDOM, *GRIT)))]
    for method, options in (("GRIT", GRIT), ("MAFA", ()), ("MAFA, a connection above 0.5", UNSURE)):
        for size in (640, "all"):
            labels: dict[str, str | int] = {"method": method, "M": size}
            rows.append(Row(labels, _started((*options, f"run.search_space={size}")), rows[0].name))
    says = (
        "GRIT has several times the false negatives of random batches, more of them the larger M, and MAFA finds them."
    )
    title = "Table 1 and Figure 2 on Flickr8k: siblings among the hardest negatives"
    against = tuple(
        (f"{one}, {size}", f"GRIT, {size}") for one in ("MAFA", "MAFA, a connection above 0.5") for size in (640, "all")
    )
    measures = (IN_BATCH, IN_ITM, *ANNOTATED, *JUDGED, PRECISION, RECALL)
    return Item("flickr8k", title, says, tuple(rows), measures, seeds=5, contrasts=against, needs="LAVIS_MAFA_DATA")


def _started(options: tuple[str, ...]) -> Cell:
    """A run of the preset from the weights of the Con-D that it asks."""
    con_d = Cell(CON_D, ("run.valid_splits=[]", "run.test_splits=[]", "run.judged_pairs=null"), every_seed=True)
    return Cell(FLICKR8K, options, con_d)
