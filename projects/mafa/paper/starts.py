"""The runs that rows are made of, and the warm-ups that they start from.

Every cell starts from the weights of a warm-up, trained once a seed and data set: three times the steps of a cell in
random batches with drawn negatives, as hardest ones alone keep the matching head at chance for hundreds of steps. Its
own first epoch is random, too: the batches of the others are planned from the embeddings of the epoch before.
"""

from __future__ import annotations

from dataclasses import replace

from axes import OFFLINE, PLAIN
from cells import Cell

BLIP2, ALBEF = (f"projects/mafa/paper/{name}.yaml" for name in ("blip2", "albef"))
MINE = "projects/mafa/mine/mine_scenes.yaml"
RECORDS, SPACE, EPOCHS = 1920, 640, 4  # the presets' N and M, and epochs


def started(
    options: tuple[str, ...],
    data: tuple[str, ...] = (),
    config: str = BLIP2,
    epochs: int = EPOCHS,
    warm_up_epochs: int | None = None,
) -> Cell:
    """A run of the preset on this data, from the weights of its warm-up (default: three times as long), which is not
    evaluated."""
    warm_up = Cell(config, (*data, f"run.max_epoch={warm_up_epochs or 3 * epochs}", "run.test_splits=[]", *PLAIN))
    return Cell(config, (*data, f"run.max_epoch={epochs}", *options), warm_up)


def offline() -> Cell:
    """MAFA by the verdicts of one mining run before it, over the same scenes."""
    train = "datasets.scenes.splits.train"
    mined = Cell(MINE, (f"{train}.n={RECORDS}", f"{train}.seed=1"), command="mine", every_seed=True)
    return replace(started(OFFLINE), verdicts=mined)
