"""The tables of ALBEF: the targets of the ITC, and the methods on retrieval and fine-tuned tasks."""

from __future__ import annotations

from axes import CONSISTENCY, EMA, GRIT, MOMENTUM, NO_CON_D
from cells import Cell
from measures import ANSWERS, IN_ITM, LABELS, ONE_ANSWER, RETRIEVAL, Item, Row
from starts import ALBEF, BLIP2, EPOCHS, RECORDS, started

VQA, NLVR = (f"projects/mafa/albef/{name}_scenes.yaml" for name in ("vqa", "nlvr"))
ALBEF_WAS = "projects/mafa/albef/albef_scenes.yaml"
WARM_UP = 3 * EPOCHS
LONG = 12  # epochs of an ALBEF, where 4 are too few


def albef_as_it_was() -> Cell:
    """LAVIS' own albef_pretrain with its queue, on the presets' data, steps and warm-up."""
    splits = "datasets.scenes.splits"
    data = (f"{splits}.train.n={RECORDS}", f"{splits}.train.seed=1", f"{splits}.test.captions_a_scene=2")
    steps = (f"run.max_epoch={LONG}", "run.stop_epoch=null", "run.warmup_steps=30", "run.k_test=8")
    steps = (*steps, f"model.momentum={EMA}")
    return Cell(ALBEF_WAS, (*data, *steps), started((), config=ALBEF).after)


def table2() -> Item:
    """ALBEF also for three times as long: S-ITC, begun on weights that were trained one-hot, first costs the ITC."""
    settings = (
        ("one-hot", GRIT),
        ("momentum distillation", (*NO_CON_D, *MOMENTUM)),
        ("consistency", (*NO_CON_D, *CONSISTENCY)),
        ("S-ITC", NO_CON_D),
        ("S-ITC and connections (MAFA)", ()),
    )
    rows: list[Row] = []
    pairs: list[tuple[str, str]] = []
    for model, config, epochs in (("BLIP-2", BLIP2, EPOCHS), ("ALBEF", ALBEF, EPOCHS), ("ALBEF", ALBEF, LONG)):
        group: list[Row] = []
        for name, options in settings:
            labels: dict[str, str | int] = {"model": model, "steps": 30 * epochs, "targets": name}
            cell = started(options, config=config, epochs=epochs, warm_up_epochs=WARM_UP)
            group.append(Row(labels, cell, group[0].name if group else ""))
        pairs += [(group[3].name, rival.name) for rival in group[1:3]] + [
            (group[4].name, other.name) for other in group[1:4]
        ]
        rows += group
    says = "S-ITC does better than momentum distillation and the consistency loss, without a second network."
    title = "Tables 2 and 6: the targets of the ITC (GRIT, hardest negatives)"
    return Item("table2", title, says, tuple(rows), (*RETRIEVAL, *LABELS, IN_ITM), contrasts=tuple(pairs))


def table3() -> Item:
    methods = (
        ("ALBEF", albef_as_it_was()),
        ("GRIT-VLP", _long((*NO_CON_D, *CONSISTENCY))),
        ("MAFA", _long(())),
    )
    tasks = (
        ("questions", VQA, ("datasets.scenes_gqa.splits.train.n=1920", "run.max_epoch=3")),
        ("two-image statements", NLVR, ("datasets.scenes_statements.splits.train.n=1920", "run.max_epoch=3")),
    )
    rows = [_of_task("retrieval", name, cell) for name, cell in methods]
    for task, config, short in tasks:
        rows += [_of_task(task, name, Cell(config, short, cell)) for name, cell in methods]
    says = "MAFA above GRIT-VLP above ALBEF: COCO +1.6/+1.4, NLVR2 +1.1 over GRIT-VLP."
    title = "Table 3: ALBEF, GRIT-VLP and MAFA, retrieval and fine-tuned tasks"
    against = tuple((f"{task}, MAFA", f"{task}, GRIT-VLP") for task in ("retrieval", *(task for task, *_ in tasks)))
    return Item("table3", title, says, tuple(rows), (*RETRIEVAL, ANSWERS, ONE_ANSWER), contrasts=against)


def _long(options: tuple[str, ...]) -> Cell:
    return started(options, config=ALBEF, epochs=LONG, warm_up_epochs=WARM_UP)


def _of_task(task: str, method: str, cell: Cell) -> Row:
    return Row({"task": task, "method": method}, cell, "" if method == "ALBEF" else f"{task}, ALBEF")
